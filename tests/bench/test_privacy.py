"""Tiny versions of the privacy experiments: the controls are caught, hegpu is not."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.privacy import b_extraction, c_filters, d_key_recovery, e_timing
from bench.privacy.broken import NoNoise, WeakMask
from bench.privacy.game import Table, guess_requests
from bench.privacy.linear_server import Insider, serve
from bench.privacy.negacyclic import Products
from bench.privacy.play import backend
from bench.privacy.render import render
from bench.privacy.result import Experiment
from bench.privacy.samples import biased_secrets, noise_p, recovered_noise, rounded_gaussian, sampled_secrets, ternary_p
from bench.privacy.stats import binomial_difference, chi_squared, clopper_pearson, gaussian_advantage, trits_right
from hegpu.ckks.params import preset
from hegpu.nets.description import Network
from hegpu.nets.family import make
from hegpu.nets.torch_net import round_weights
from hegpu.protocols.budget import plan_budget
from hegpu.protocols.linear import MasterKey, _released, encrypt_slice
from hegpu.ring.random import fresh_key

B = backend()


@pytest.fixture(scope="module")
def net() -> Network:
    return round_weights(make("redcnn", 4, 4, seed=3), 10)


def test_intervals_and_formulas() -> None:
    low, high = clopper_pearson(0, 10, 0.95)
    assert low == 0
    assert high == pytest.approx(1 - 0.025**0.1)
    assert gaussian_advantage(1e-6) == pytest.approx(0.4e-6, rel=0.01)
    assert trits_right(0) == pytest.approx(1 / 3)
    assert trits_right(11.5) == pytest.approx(0.94, abs=0.01)  # one slice at 0.1 HU leaves 6 % wrong
    values, probabilities = binomial_difference(21)
    assert (values**2 * probabilities).sum() == pytest.approx(10.5)
    counts = np.round(probabilities * 1e6).astype(np.int64)
    assert chi_squared(counts, probabilities) > 0.9
    assert chi_squared(counts + 20000 * (values == 0), probabilities) < 1e-9


@pytest.fixture(scope="module")
def tables(net: Network) -> tuple[Table, Table]:
    return Table.lay(B, net, 32), Table.lay(B, net, 32, whole=True)


def test_algebra_catches_missing_noise_and_reused_seeds(tables: tuple[Table, Table]) -> None:
    real, whole = tables
    rng = np.random.default_rng(1)
    score = whole.solve(*whole.first_rounds(NoNoise(B), 30, rng), rng)
    assert clopper_pearson(score.hits, score.trials)[0] > 0.5
    for table in tables:
        score = table.solve(*table.first_rounds(B, 40, rng), rng)
        assert clopper_pearson(score.hits, score.trials)[0] <= 0.5
    assert real.pairs(30, rng, reuse=True).hits == 30
    score = real.pairs(40, rng, reuse=False)
    assert clopper_pearson(score.hits, score.trials)[0] <= 0.5


def test_the_trained_distinguisher_catches_a_weak_mask(tables: tuple[Table, Table]) -> None:
    real, rng = tables[0], np.random.default_rng(2)
    score = guess_requests(real, *real.first_rounds(WeakMask(B), 120, rng), steps=150)
    assert clopper_pearson(score.hits, score.trials)[0] > 0.5
    score = guess_requests(real, *real.first_rounds(B, 300, rng), steps=150)
    assert clopper_pearson(score.hits, score.trials)[0] <= 0.5


def test_whole_transcripts_can_be_described(tables: tuple[Table, Table]) -> None:
    rows, raws, labels = tables[0].transcripts(B, 2, np.random.default_rng(3))
    assert np.isfinite(rows).all() and rows.shape[0] == len(raws) == 2
    assert set(labels.tolist()) <= {0, 1}


def test_samplers_pass_and_their_controls_do_not() -> None:
    assert ternary_p(sampled_secrets(B, 60)) > 1e-5
    assert ternary_p(biased_secrets(1 << 22)) < 1e-9
    assert noise_p(recovered_noise(B, preset("compact"), 60)) > 1e-5
    assert noise_p(recovered_noise(B, preset("compact"), 2, NoNoise(B))) == 0
    assert noise_p(rounded_gaussian(1 << 19)) < 1e-9


def test_client_relu_gives_its_weights_away(net: Network) -> None:
    hu = np.rint(np.random.default_rng(5).uniform(-1024, 3071, (32, 32)))
    stolen = b_extraction.steal(net, "lossless", hu)
    assert stolen.errors[0] < 1e-6
    assert np.median(stolen.errors) < 0.01


def test_linear_gives_them_away_only_without_rerandomisation_or_flooding() -> None:
    params, keys = preset("linear"), MasterKey(preset("linear"), fresh_key())
    hu, kernel = b_extraction.body((60, 60)), c_filters.filters()["C"]
    client = Insider.of(B, hu, encrypt_slice(B, hu, keys, 2), keys)
    budget = plan_budget(kernel, 0.0, params, _released(client.s.tiling))
    w = budget.weights
    errors = {}
    for fresh in (False, True):
        answer = serve(B, client.s, w, fresh=fresh, flood_bits=budget.flood_bits)
        errors[fresh] = b_extraction._relative(b_extraction._division(B, client, answer, 5), w)
    assert errors[False] == 0 and errors[True] > 10
    for bits, least, most in ((None, 0, 0.01), (budget.flood_bits, 0.5, np.inf)):
        noise = client.answer_noise(serve(B, client.s, w, flood_bits=bits), client.through(w, client.message))
        assert least <= b_extraction._relative(b_extraction._regress(client, noise, 5), w) < most


def test_filters_are_told_apart_by_noise_unless_it_is_flooded() -> None:
    bench = c_filters.Bench.build(c_filters.Size())
    rng = np.random.default_rng()
    assert all(bench.unflooded(int(label), None)[0] for label in rng.integers(0, 2, 15))
    hits = sum(bench.product(("A", "B"), int(label))[0] for label in rng.integers(0, 2, 40))
    low, high = clopper_pearson(hits, 40)
    assert low <= 0.5 <= high
    games = [bench.unflooded(int(label), 24) for label in rng.integers(0, 2, 60)]
    low, high = clopper_pearson(sum(right for right, _ in games), 60)
    assert low <= (1 + gaussian_advantage(float(np.mean([d for _, d in games])))) / 2 <= high


def test_products_and_their_adjoint() -> None:
    rng, at = np.random.default_rng(0), np.array([0, 3, 7])
    products = Products.of(rng.normal(size=(2, 8)), at)
    x, y = rng.normal(size=8), rng.normal(size=(2, 3))
    assert (products.apply(x) * y).sum() == pytest.approx(products.adjoint(y) @ x)
    one = np.zeros(8)
    one[7] = 1.0  # X^7 times X is -1
    assert Products.of(one, np.arange(8)).apply(np.eye(8)[1]) == pytest.approx(-np.eye(8)[0], abs=1e-12)


def test_a_shared_key_falls_and_a_slice_key_does_not() -> None:
    result = Experiment("d", "")
    d_key_recovery._shared(result, d_key_recovery.Size(slices=(1, 24)))
    d_key_recovery._shipped(result, d_key_recovery.Size(shipped_side=64))
    assert [f.name for f in result.figures if not f.holds] == []


def test_lengths_are_equal(net: Network) -> None:
    plan = e_timing.plan_network(net, "compact", (48, 48))
    client = e_timing.Clocked(B, plan, MasterKey(preset("linear"), fresh_key()))
    result, rng = Experiment("e", ""), np.random.default_rng(0)
    e_timing._lengths(result, client, e_timing.Server(B, net, plan), (48, 48), rng)
    assert result.holds


def test_the_page_says_what_does_not_hold(tmp_path: Path) -> None:
    result = Experiment("c", "a title")
    result.add("a figure", 1.0, "0", False, (0.9, 1.0))
    result.add("a control", 1e-12, "caught", True, control=True)
    stored = {**result.to_json(), "seconds": 1, "date": "", "commit": "", "processor": "", "python": ""}
    (tmp_path / "r.json").write_text(json.dumps({"c": stored}))
    render(tmp_path / "r.json", tmp_path)
    text = (tmp_path / "privacy.md").read_text()
    assert "| a figure | 1 | 0.9000 to 1 | 0 | **DOES NOT HOLD** |" in text
    assert "Not all claims hold:** a figure" in text and "| a control | 1.00e-12 |" in text
