"""Key sets on disk and the account of decryptions."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from world import B, world

from hegpu.ckks.evaluator import Evaluator
from hegpu.ckks.key_files import dump_key, load_key, open_keys, save_keys
from hegpu.ckks.ledger import NAME, Ledger
from hegpu.errors import BudgetError, FormatError, KeyMismatchError, MissingKeyError, ParameterError

C = world()


def test_keys_are_half_the_size_and_load_when_used(tmp_path: Path) -> None:
    save_keys(B, C.keys, tmp_path)
    key = C.keys.held[0]
    assert key.second is not None
    assert (tmp_path / "relinearise.key").stat().st_size < 0.52 * (key.first.nbytes + key.second.nbytes)
    x = C.encrypt(C.slots())
    for compact in (False, True):
        keys = open_keys(B, tmp_path, C.params, C.keys.fingerprint, compact=compact)
        assert keys.elements == C.keys.elements and not keys.held
        ev = Evaluator(B, keys)
        assert np.array_equal(ev.rotate(x, 5).data, C.evaluator.rotate(x, 5).data)
        assert len(keys.held) == 1
        assert (keys.held[pow(5, 5, 2 * C.params.n)].second is None) == compact
        assert np.array_equal(ev.square(x).data, C.evaluator.square(x).data)
        with pytest.raises(MissingKeyError, match="relinearisation, conjugation, rotations by"):
            ev.rotate(x, 3)


def test_foreign_and_damaged_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no evaluation keys"):
        open_keys(B, tmp_path, C.params, C.keys.fingerprint)
    save_keys(B, C.keys, tmp_path)
    other = world(rotations=(1,))
    with pytest.raises(KeyMismatchError):
        Evaluator(B, open_keys(B, tmp_path, C.params, other.keys.fingerprint)).square(other.encrypt([0.5]))
    (tmp_path / "galois-5.key").write_bytes((tmp_path / "relinearise.key").read_bytes())
    opened = Evaluator(B, open_keys(B, tmp_path, C.params, C.keys.fingerprint))
    with pytest.raises(KeyMismatchError, match="element 0"):
        opened.rotate(C.encrypt([0.5]), 1)
    data = dump_key(B, C.keys, 0)
    assert load_key(B, data)[2] == 0
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data[: rng.integers(len(data))] if rng.integers(2) else data)
        if damaged:
            damaged[rng.integers(min(len(damaged), 2000))] ^= 1 << rng.integers(8)
        with contextlib.suppress(FormatError, ParameterError):
            load_key(B, bytes(damaged))
    with pytest.raises(FormatError, match="limit"):
        load_key(B, data, max_bytes=1000)


def test_nothing_secret_is_in_a_key(tmp_path: Path) -> None:
    save_keys(B, C.keys, tmp_path)
    secret = np.ascontiguousarray(C.secret.evaluations[0, :16]).tobytes()
    assert all(secret not in path.read_bytes() for path in tmp_path.iterdir())
    assert "array" not in repr(C.secret) and "array" not in repr(C.keys)


def test_the_ledger_adds_up_and_refuses(tmp_path: Path) -> None:
    ledger, one, two = Ledger(tmp_path, 1.0), bytes(16), bytes(15) + b"1"
    assert ledger.spent(one) == 0.0
    assert ledger.charge(one, 1000, 0.0004) == pytest.approx(0.4)
    assert Ledger(tmp_path, 1.0).charge(one, 1000, 0.0004) == pytest.approx(0.8)
    with pytest.raises(BudgetError, match="use a new key"):
        ledger.charge(one, 1000, 0.0004)
    assert ledger.spent(one) == pytest.approx(0.8)
    assert ledger.charge(two, 1, 0.5) == 0.5
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ParameterError):
            ledger.charge(one, 1, bad)
    with pytest.raises(ParameterError):
        Ledger(tmp_path, 0)
    for text in ("{", "[]", json.dumps({"a": -1.0}), json.dumps({"a": "x"})):
        (tmp_path / NAME).write_text(text)
        with pytest.raises(FormatError, match="new keys"):
            ledger.charge(one, 1, 0.0)


def test_the_ledger_in_many_processes(tmp_path: Path) -> None:
    import multiprocessing

    ledger = Ledger(tmp_path, 100.0)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.starmap(Ledger.charge, [(ledger, bytes(16), 1, 1.0)] * 40)
    assert ledger.spent(bytes(16)) == 40.0


def test_a_compact_set_survives_replace() -> None:
    assert replace(C.keys).rotations == [1, 2, 4, 5, 509]
