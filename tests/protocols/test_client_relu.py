"""client-relu: equal to the network in the clear within the predicted error, and true to its rules."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import stat
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hegpu.backend.cpu import CpuBackend
from hegpu.backend.reference import ReferenceBackend
from hegpu.ckks.wire import header_of
from hegpu.ct.phantom import phantom
from hegpu.errors import BudgetError, FormatError, HegpuError, ImageError, ModelError
from hegpu.nets.description import Layer, Network, weight_shapes
from hegpu.nets.family import make
from hegpu.nets.file import load_network
from hegpu.nets.plaintext import execute, finish, prepare, run
from hegpu.nets.torch_net import round_weights, run_torch
from hegpu.protocols.client_relu.client import denoise
from hegpu.protocols.client_relu.plan import Plan, plan_network
from hegpu.protocols.client_relu.server import answer
from hegpu.protocols.client_relu.server import prepare as prepare_round
from hegpu.protocols.client_relu.weights import CBD_LARGEST, integers, kernels
from hegpu.ring.primes import ntt_primes

CPU = CpuBackend(threads=2)
NONCE = bytes(range(16))


class Server:
    """The server in this process; it records what it receives, and can fail before a round."""

    def __init__(self, net: Network, plan: Plan, backend=CPU) -> None:
        self.net, self.plan, self.backend, self.prepared = net, plan, backend, {}
        self.received: list[tuple[int, int, str, bytes]] = []
        self.fail_at: int | None = None

    def __call__(self, index: int, group: int, message_id: str, body: bytes) -> bytes:
        if index == self.fail_at:
            raise HegpuError("the connection is gone")
        assert len(body) == self.plan.request_bytes(index, group)
        self.received.append((index, group, message_id, body))
        if index not in self.prepared:
            self.prepared[index] = prepare_round(self.backend, self.net, self.plan, index)
        result = answer(self.backend, self.prepared[index], group, NONCE, body)
        assert len(result) == self.plan.answer_bytes(index, group)
        return result


def image(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 30, shape)
    return np.rint(np.clip(phantom((256, 256), seed=seed)[80 : 80 + shape[0], 60 : 60 + shape[1]] + noise, -1024, 3071))


def small(kind: str, border: str | None = None) -> Network:
    net = round_weights(make(kind, 4, 4, seed=3, lifting=("hu", "window:-160:240") if "gate" in kind else ("hu",)), 10)
    return net if border is None else dataclasses.replace(net, border=border)


def unmatched() -> Network:
    """A skip smaller than what it is added to, a source that is not the layer before, a bias, kernels of two sizes."""
    layers = (
        Layer("a", "conv2d", 3, 1, 3, activation="relu"),
        Layer("b", "conv2d", 5, 3, 3, activation="relu"),
        Layer("c", "conv_transpose2d", 7, 3, 3, source="b", skip="a", activation="relu"),
        Layer("d", "conv2d", 1, 3, 1, source="c"),
    )
    rng = np.random.default_rng(5)
    weights = {k: rng.normal(0, 0.2, shape).astype(np.float32) for k, shape in weight_shapes(layers).items()}
    return round_weights(Network("unmatched", layers, weights, 0.0, 1000.0), 10)


NETWORKS = {
    "relu": lambda: small("redcnn"),
    "relu, unpadded": lambda: small("redcnn", "unpadded"),
    "relu, zero border": lambda: small("redcnn", "zero"),
    "linear": lambda: small("redcnn-linear"),
    "gate, slot-wrap": lambda: small("redcnn-gate"),
    "quad, slot-wrap": lambda: small("redcnn-quad"),
    "unmatched": unmatched,
}


@pytest.mark.parametrize("preset", ["compact", "lossless"])
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_network_in_the_clear(name: str, preset: str) -> None:
    net, hu = NETWORKS[name](), image((70, 100))
    plan = plan_network(net, preset, hu.shape)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    got, report = denoise(CPU, plan, hu, Server(net, plan), nonce=NONCE)
    error = got - run(net, hu)
    assert report.saturated == 0
    assert np.sqrt(np.mean(error**2)) <= 1.5 * plan.error_hu
    assert np.abs(error).max() <= 10 * plan.error_hu


def test_lossless_is_closer_than_float32_and_rounds_alike() -> None:
    """A shipped network on a slice of many tiles; 512 x 512 and 96 channels are checked before they are timed in bench/."""
    net = load_network("redcnn-16")
    hu = np.rint(np.clip(phantom((256, 256), seed=3) + np.random.default_rng(0).normal(0, 25, (256, 256)), -1024, 3071))
    plan = plan_network(net, "lossless", hu.shape)
    got, _ = denoise(CPU, plan, hu, Server(net, plan), nonce=NONCE)
    exact, torch_single = run(net, hu), run_torch(net, hu)
    single = finish(net, execute(net, prepare(net, hu).astype(np.float32)).astype(np.float64), hu)
    rms = [float(np.sqrt(np.mean((x - exact) ** 2))) for x in (got, single, torch_single)]
    assert rms[0] < min(rms[1:])
    clear = np.abs(exact - np.floor(exact) - 0.5) > 8 * plan.error_hu
    assert clear.mean() > 0.999
    assert np.array_equal(np.rint(got)[clear], np.rint(exact)[clear])


def test_the_noise_of_a_layer_is_the_predicted_one() -> None:
    net = Network(
        "one", (Layer("a", "conv2d", 5, 1, 1),),
        {"a.weight": (np.rint(np.random.default_rng(0).normal(0, 200, (1, 1, 5, 5))) / 1024).astype(np.float32), "a.bias": np.array([0.25], np.float32)},
        0.0, 1000.0,
    )  # fmt: skip
    # One layer is the last round; with another after it that copies, the switch of the modulus is measured too.
    copy = Layer("b", "conv2d", 1, 1, 1)
    two = Network("two", (*net.layers, copy), {**net.weights, "b.weight": np.ones((1, 1, 1, 1), np.float32), "b.bias": np.zeros(1, np.float32)}, 0.0, 1000.0)  # fmt: skip
    for n in (net, two):
        plan, hu = plan_network(n, "compact", (128, 128)), image((128, 128))
        error = denoise(CPU, plan, hu, Server(n, plan), nonce=NONCE)[0] - run(n, hu)
        assert 0.9 < np.sqrt(np.mean(error**2)) / plan.error_hu < 1.1


def test_a_network_that_does_not_fit_is_refused() -> None:
    """A last layer that amplifies every error ten thousand times."""
    net = make("redcnn", 4, 4, seed=1)
    weights = {k: v * 1e4 if k == "tconv2.weight" else v for k, v in net.weights.items()}
    with pytest.raises(BudgetError, match="least possible"):
        plan_network(dataclasses.replace(net, weights=weights), "compact", (40, 40))


@pytest.mark.parametrize("preset", ["compact", "lossless"])
def test_no_sum_can_wrap(preset: str) -> None:
    """For every round: limit and noise times the 1-norm of the integer weights, and the bias, stay below Q / 2."""
    net = load_network("redcnn-16")
    plan = plan_network(net, preset, (64, 64))
    for r in plan.rounds:
        ones = np.abs(integers(net, r.index, r.weight_bits).astype(object)).sum(axis=(1, 2, 3))
        bias = np.abs(kernels(net, r.index)[1]).max()
        noise = CBD_LARGEST + Fraction(2**plan.params.c0_drop_up, 2)
        largest = max(ones) * (r.limit + noise) + Fraction(float(bias)) * Fraction(r.in_scale) * 2**r.weight_bits + 1
        assert largest < Fraction(plan.modulus, 2)
        assert r.bits == 0 or plan.params.n * 2 ** (r.bits - 1) < plan.modulus // 2


def test_the_reference_backend_gives_the_same_answer() -> None:
    net, hu = small("redcnn"), image((40, 40))
    plan = plan_network(net, "lossless", hu.shape)
    server = Server(net, plan)
    denoise(CPU, plan, hu, server, nonce=NONCE)
    for index in (1, len(plan.rounds) - 1):
        _, group, _, body = next(m for m in server.received if m[0] == index)
        prepared = prepare_round(ReferenceBackend(), net, plan, index)
        assert answer(ReferenceBackend(), prepared, group, NONCE, body) == server(index, group, "again", body)


def streams(messages) -> dict[tuple[str, int, int, int], str]:
    """Of each message: (its seed, channel, tile) -> a hash of that c0."""
    seen: dict[tuple[str, int, int, int], str] = {}
    for index, group, _, body in messages:
        header, tensors, start = header_of(body)
        channels, tiles, size = tensors["c0"]["shape"]
        for c in range(channels):
            for t in range(tiles):
                at = start + (c * tiles + t) * size
                key = (header["seed"], index, c, group * 10_000 + t)
                value = hashlib.blake2b(body[at : at + size]).hexdigest()
                assert seen.setdefault(key, value) == value, "one c1 met two different c0"
    return seen


def test_a_killed_client_goes_on_with_new_seeds(tmp_path) -> None:
    net, hu = small("redcnn"), image((70, 100))
    plan = plan_network(net, "compact", hu.shape)
    server = Server(net, plan)
    server.fail_at = 2
    with pytest.raises(HegpuError, match="connection"):
        denoise(CPU, plan, hu, server, nonce=NONCE, state=tmp_path / "state")
    kept = list((tmp_path / "state").iterdir())
    assert kept
    assert all(stat.S_IMODE(os.stat(f).st_mode) == 0o600 for f in kept)
    assert stat.S_IMODE(os.stat(tmp_path / "state").st_mode) == 0o700
    with pytest.raises(FormatError, match="another slice"):
        denoise(CPU, plan, hu + 1, server, nonce=NONCE, state=tmp_path / "state")
    before = len(server.received)
    server.fail_at = None
    got, _ = denoise(CPU, plan, hu, server, nonce=NONCE, state=tmp_path / "state")
    assert {m[0] for m in server.received[before:]} == {2, 3}
    assert np.sqrt(np.mean((got - run(net, hu)) ** 2)) <= 1.5 * plan.error_hu
    before = len(server.received)  # the result was lost before it was safe
    again, _ = denoise(CPU, plan, hu, server, nonce=NONCE, state=tmp_path / "state")
    assert {m[0] for m in server.received[before:]} == {3}
    assert np.abs(again - got).max() <= 20 * plan.error_hu
    streams(server.received)
    seeds = {(m[0], header_of(m[3])[0]["seed"]) for m in server.received}
    assert len({seed for _, seed in seeds}) == len(seeds), "a seed served two rounds"
    assert len({m[2] for m in server.received}) == len(server.received)


def test_messages_of_others_and_damaged_ones_are_refused() -> None:
    net, hu = small("redcnn"), image((70, 100))
    plan = plan_network(net, "compact", hu.shape)
    server = Server(net, plan)
    denoise(CPU, plan, hu, server, nonce=NONCE)
    index, group, _, body = server.received[0]
    prepared = server.prepared[index]
    for other in (
        lambda: answer(CPU, prepared, group, bytes(16), body),
        lambda: answer(CPU, prepared, group + 1, NONCE, body),
        lambda: answer(CPU, server.prepared[1], group, NONCE, body),
        lambda: answer(CPU, prepared, group, NONCE, body[:-1]),
        lambda: answer(CPU, prepared, group, NONCE, b""),
    ):
        with pytest.raises(FormatError):
            other()
    with pytest.raises(ModelError, match="not one"):
        prepare_round(CPU, small("redcnn-linear"), plan, 0)
    with pytest.raises(ImageError, match="another plan"):
        denoise(CPU, plan, hu[:-1], server, nonce=NONCE)
    with pytest.raises(FormatError):
        denoise(CPU, plan, hu, lambda i, g, m, b: server(i, g, m, b)[:-1], nonce=NONCE)
    with pytest.raises(FormatError):
        denoise(CPU, plan, hu, lambda i, g, m, b: body, nonce=NONCE)


@pytest.fixture(scope="module")
def first_round():
    net = small("redcnn")
    plan = plan_network(net, "compact", (40, 40))
    server = Server(net, plan)
    denoise(CPU, plan, image((40, 40)), server, nonce=NONCE)
    return server.prepared[0], server.received[0][3]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_mutated_request_never_raises_anything_else(first_round, data) -> None:
    prepared, good = first_round
    body = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, 400), st.integers(0, len(body) - 1)))
        body[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(HegpuError):
        answer(CPU, prepared, 0, NONCE, bytes(body))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_hostile_plan_is_refused_or_harmless(data) -> None:
    value = plan_network(small("redcnn"), "compact", (40, 40)).to_json()
    target = data.draw(
        st.sampled_from([value, value["outline"], value["rounds"][1], value["rounds"][1]["tiling"], value["params"]])
    )
    key = data.draw(st.sampled_from(sorted(target)))
    target[key] = data.draw(st.sampled_from([None, -1, 0, 1 << 60, 1e300, math.nan, "x", [], {}, [1, 2], True]))
    with contextlib.suppress(FormatError):
        Plan.from_json(value)


def test_a_server_does_not_choose_the_security() -> None:
    plan = plan_network(small("redcnn"), "compact", (8, 8))
    weak = dataclasses.replace(plan.params, name="insecure_small", n=1024, q_primes=ntt_primes(22, 1024, 2))
    with pytest.raises(FormatError, match="do not use this server"):
        Plan.from_json({**plan.to_json(), "params": weak.to_json()})


def test_what_is_sent_does_not_depend_on_the_slice() -> None:
    net = small("redcnn")
    plan = plan_network(net, "compact", (70, 100))
    sizes = []
    for hu in (np.full((70, 100), -1024.0), np.full((70, 100), 3071.0), image((70, 100)), np.full((70, 100), 1e9)):
        server = Server(net, plan)
        denoise(CPU, plan, hu, server, nonce=NONCE)
        sizes.append([(m[0], m[1], len(m[3])) for m in sorted(server.received)])
    assert all(s == sizes[0] for s in sizes)
