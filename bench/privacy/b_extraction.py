"""(b) What a client can learn of the weights: all of them over ``client-relu``, over ``linear`` only what outputs tell."""

import dataclasses
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.privacy.linear_server import Insider, serve, uniform_half
from bench.privacy.play import NONCE, Server, Spy, backend
from bench.privacy.result import Experiment
from hegpu.backend.protocol import Backend
from hegpu.ckks.encrypt import decode
from hegpu.ckks.params import preset
from hegpu.ckks.wire import unpack_residues
from hegpu.ct.phantom import phantom
from hegpu.nets.compose import affine_filter
from hegpu.nets.description import Network
from hegpu.nets.file import load_network
from hegpu.nets.plaintext import run as run_network
from hegpu.protocols.budget import plan_budget
from hegpu.protocols.client_relu.messages import load_answer
from hegpu.protocols.client_relu.plan import plan_network
from hegpu.protocols.client_relu.rounds import Round
from hegpu.protocols.client_relu.weights import kernels
from hegpu.protocols.linear import MasterKey, _released, denoise_slice, encrypt_slice
from hegpu.ring.random import fresh_key
from hegpu.tensor.tiles import kernel_positions

F64 = npt.NDArray[np.float64]
WHOLE = 0.5  # relative error from which a guess is worth no more than none


@dataclass(frozen=True)
class Size:
    network: str = "redcnn-16"
    side: int = 96
    filter_side: int = 160
    taps: int = 13


def body(shape: tuple[int, int], seed: int = 0) -> F64:
    """A noisy piece of a phantom, whole HU."""
    noise = np.random.default_rng(seed).normal(0, 30, shape)
    big = phantom((512, 512), seed=seed)[150 : 150 + shape[0], 150 : 150 + shape[1]]
    return np.asarray(np.rint(np.clip(big + noise, -1024, 3071)))


def run(size: Size | None = None) -> Experiment:
    size = size or Size()
    result = Experiment("b", "Model extraction")
    result.facts |= {"network": size.network, "side": size.side}
    shape = (size.side, size.side)
    chosen = np.rint(np.random.default_rng(5).uniform(-1024, 3071, shape))
    for name in ("compact", "lossless"):
        for slice_, hu in (("an ordinary slice", body(shape)), ("a slice of its choice, white noise", chosen)):
            stolen = steal(load_network(size.network), name, hu)
            value, span = float(np.median(stolen.errors)), (min(stolen.errors), max(stolen.errors))
            what = f"client-relu {name}, {slice_}: relative weight error, median of {len(stolen.errors)} layers (range)"
            if slice_ == "an ordinary slice" and name == "compact":
                result.add(
                    what, value, "reported: some channels hardly ever rise above this preset's noise", True, span
                )
            else:
                claim = "below 1 %: the client holds the model, as the protocol says"
                result.add(what, value, claim, value < 0.01, span, control=True)
            if hu is chosen:
                what = f"client-relu {name}: stolen network against the true one on another slice, HU rms"
                result.add(what, stolen.copy_hu, "below 0.1 HU", stolen.copy_hu < 0.1, control=True)
            result.facts[f"{name}, {slice_}"] = asdict(stolen)
    _linear(result, size)
    return result


@dataclass(frozen=True)
class Stolen:
    """``errors``: |w - w'| / |w| of each layer over the input channels that this slice excites at all; ``dead``: the
    share of the network's weights that multiply only zeros here. ``copy_hu``: rms difference of the stolen network to
    the true one on another slice."""

    errors: list[float]
    dead: float
    copy_hu: float


def steal(net: Network, preset_name: str, hu: F64) -> Stolen:
    """Least squares on the client's own planes and words of one slice."""
    b = backend()
    plan = plan_network(net, preset_name, (hu.shape[0], hu.shape[1]))
    server, spy = Server(b, net, plan), Spy(b)
    server.play(spy, hu)
    sent = {(index, group): x for (index, group, _), x in zip(server.requests, spy.encrypted, strict=True)}
    replies = {(index, group): reply for index, group, reply in server.answers}
    errors, weights, unseen = [], dict(net.weights), 0
    for r in plan.rounds:
        layer, unit = net.layers[r.index], r.unit(plan.modulus)
        secret = _factor(b, spy.ternary[r.index], plan.params.q_primes)
        normal: Any = 0.0
        right: Any = 0.0
        for group in range(r.groups):
            words = _words(b, plan, r, group, replies[r.index, group], secret) * unit
            for tile in range(words.shape[1]):
                rows = _windows(sent[r.index, group][:, tile] / r.in_scale, r, layer.kernel)
                keep = np.abs(rows[:, :-1]).sum(axis=1) > 0
                normal = normal + rows[keep].T @ rows[keep]
                right = right + rows[keep].T @ words[:, tile].T[keep]
        guess = _solve(normal, right).T
        w, bias = kernels(net, r.index)
        truth = np.concatenate([w.reshape(len(w), -1), bias[:, None]], axis=1)
        live = np.diag(normal) > 0
        unseen += int((~live).sum()) * len(w)
        errors.append(float(np.linalg.norm((guess - truth)[:, live]) / np.linalg.norm(truth[:, live])))
        stolen = guess[:, :-1].reshape(w.shape)
        if layer.op == "conv_transpose2d":
            stolen = stolen[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
        weights |= {f"{layer.name}.weight": stolen, f"{layer.name}.bias": guess[:, -1]}
    copy = dataclasses.replace(net, weights=weights, fraction_bits=None)
    other = body(hu.shape, 7)
    difference = run_network(copy, other) - run_network(net, other)
    total = sum(v.size for k, v in net.weights.items() if k.endswith(".weight"))
    return Stolen(errors, unseen / total, float(np.sqrt(np.mean(difference**2))))


def _solve(normal: F64, right: F64) -> F64:
    """Least squares, each unknown scaled to the size of what multiplies it; 0 where nothing does."""
    size = np.sqrt(np.diag(normal))
    factor = np.where(size > 0, 1 / np.where(size > 0, size, 1), 0)
    scaled = np.linalg.lstsq(normal * factor * factor[:, None], right * factor[:, None], rcond=1e-14)[0]
    return np.asarray(scaled * factor[:, None])


def _factor(b: Backend, small: Any, q: tuple[int, ...]) -> Any:
    return b.ntt(b.from_signed(small.astype(np.int64), q), q)


def _words(b: Backend, plan: Any, r: Round, group: int, reply: bytes, secret: Any) -> F64:
    """What the client decrypts: ``[planes, tiles, pixels]``."""
    q = plan.params.q_primes
    c0, c1 = load_answer(plan, NONCE, r.index, group, reply)
    if r.bits:
        return b.unpack_products(c0, c1, secret, q, r.c0_form).astype(np.float64)
    second = b.ntt(unpack_residues(b, c1, q, plan.params.n), q)
    total = b.add(unpack_residues(b, c0, q, plan.params.n), b.intt(b.mul(second, secret, q), q), q)
    return decode(np.ascontiguousarray(total[..., r.tiling.valid_coefficients()]), q, Fraction(1))


def _windows(planes: F64, r: Round, kernel: int) -> F64:
    """Rows of the linear equations of a tile: its windows ``[pixels, inputs k k + 1]``, the last column 1."""
    t = r.tiling
    image = planes[:, : t.tile_w * t.tile_h].reshape(-1, t.tile_h, t.tile_w)
    windows = np.lib.stride_tricks.sliding_window_view(image, (kernel, kernel), axis=(1, 2))
    rows = windows.transpose(1, 2, 0, 3, 4).reshape(t.step_w * t.step_h, -1)
    return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)


def _linear(result: Experiment, size: Size) -> None:
    b, side = backend(), size.filter_side
    params, hu = preset("linear"), body((side, side), 1)
    kernel = _filter(size.taps)
    keys = MasterKey(params, fresh_key())
    client = Insider.of(b, hu, encrypt_slice(b, hu, keys, size.taps // 2), keys)
    budget = plan_budget(kernel, 0.0, params, _released(client.s.tiling))
    w = budget.weights
    for text, fresh, control in (("not re-randomised", False, True), ("re-randomised and flooded", True, False)):
        answer = serve(b, client.s, w, fresh=fresh, flood_bits=budget.flood_bits)
        error = _relative(_division(b, client, answer, w.shape[0]), w)
        claim = "0: caught" if control else "worth no more than a guess"
        good = error == 0 if control else error > WHOLE
        result.add(f"linear, {text}: error of c1 / c1 at the NTT points", error, claim, good, control=control)
    cases = (
        ("control: not flooded", {"flood_bits": None}, True),
        ("flooded as hegpu does", {"flood_bits": budget.flood_bits}, False),
    )
    for text, options, control in cases:
        noise = client.answer_noise(serve(b, client.s, w, **options), client.through(w, client.message))  # type: ignore[arg-type]
        error = _relative(_regress(client, noise, w.shape[0]), w)
        claim = "below 1 %: caught" if control else "worth no more than a guess"
        good = error < 0.01 if control else error > WHOLE
        result.add(f"linear, noise against own noise, {text}: error", error, claim, good, control=control)
    _outputs(result, b, hu, keys, kernel)


def _filter(taps: int) -> F64:
    """The middle of the shipped linear network's filter, of sum 1."""
    whole = affine_filter(load_network("linear")).kernel
    edge = (whole.shape[0] - taps) // 2
    middle = whole[edge : edge + taps, edge : edge + taps] if edge > 0 else whole
    return np.asarray(middle / middle.sum())


def _relative(guess: Any, truth: Any) -> float:
    return float(np.linalg.norm((guess - truth).astype(np.float64)) / np.linalg.norm(truth.astype(np.float64)))


def _division(b: Backend, client: Insider, answer: Any, size: int) -> Any:
    """c1 of the answer over c1 of the question at every NTT point: the kernel, if nothing was added."""
    q = client.s.params.q_primes[:1]
    first, second = (
        b.ntt(np.ascontiguousarray(v[:1]), q)[0, 0] for v in (uniform_half(b, client.s)[:, :1], answer[:, 1, :1])
    )
    inverse = np.array([pow(int(v), -1, q[0]) if v else 0 for v in first], np.uint32)
    polynomial = b.intt(b.mul(second[None], inverse[None], q), q)[0].astype(np.int64)
    polynomial = np.where(polynomial > q[0] // 2, polynomial - q[0], polynomial)
    return polynomial[kernel_positions(size, client.s.tiling)].reshape(size, size)


def _own_windows(client: Insider, size: int) -> Iterator[F64]:
    t = client.s.tiling
    for tile in client.own_noise():
        image = tile[: t.tile_w * t.tile_h].reshape(t.tile_h, t.tile_w)
        windows = np.lib.stride_tricks.sliding_window_view(image, (size, size))
        yield windows.reshape(-1, size * size)


def _regress(client: Insider, noise: F64, size: int) -> F64:
    """Least squares of an answer's noise on the client's own, known noise."""
    rows = np.concatenate(list(_own_windows(client, size)))
    return np.linalg.lstsq(rows.T @ rows, rows.T @ noise.ravel(), rcond=None)[0].reshape(size, size)


def _outputs(result: Experiment, b: Backend, hu: F64, keys: MasterKey, kernel: F64) -> None:
    """Least squares on input and output images: no cryptography changes this."""
    from hegpu.protocols.linear import decrypt_result

    size, r = kernel.shape[0], kernel.shape[0] // 2
    padded = np.pad(hu, r, mode="edge")
    rows = np.lib.stride_tricks.sliding_window_view(padded, (size, size)).reshape(hu.size, -1)
    rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    clear = rows[:, :-1] @ kernel.ravel()
    decrypted = decrypt_result(b, denoise_slice(b, encrypt_slice(b, hu, keys, r), kernel, 0.0)[0], keys)
    normal = rows.T @ rows
    for text, output in (
        ("a plain server's float64 image", clear.reshape(hu.shape)),
        ("hegpu's decrypted image", decrypted),
        ("hegpu's image rounded to HU", np.rint(decrypted)),
    ):
        guess = np.linalg.lstsq(normal, rows.T @ output.ravel(), rcond=None)[0][:-1].reshape(kernel.shape)
        error = _relative(guess, kernel)
        result.add(f"linear, {size}x{size} filter from {text}: error", error, "reported: the function itself", True)
