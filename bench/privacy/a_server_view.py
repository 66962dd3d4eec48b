"""(a) What the server of ``client-relu`` receives tells nothing about the slice."""

import json
from dataclasses import dataclass

import numpy as np

from bench.privacy.broken import NoNoise, WeakMask
from bench.privacy.distinguish import Score, trained
from bench.privacy.game import Table, guess_polynomials, guess_requests
from bench.privacy.play import backend
from bench.privacy.reconstruct import data, learn
from bench.privacy.result import Experiment
from bench.privacy.samples import (
    biased_secrets,
    noise_p,
    recovered_noise,
    rounded_gaussian,
    sampled_secrets,
    ternary_p,
)
from bench.privacy.stats import clopper_pearson
from hegpu.ckks.params import Parameters, preset
from hegpu.errors import HegpuError
from hegpu.nets.file import load_network
from hegpu.protocols.client_relu.plan import Plan
from hegpu.ring.primes import ntt_primes
from hegpu.tensor.tiles import plan as plan_tiles

SAMPLER_P = 1e-4  # a sound sampler fails this once in ten thousand runs
CAUGHT_P = 1e-9


@dataclass(frozen=True)
class Size:
    side: int = 32
    transcripts: int = 400
    control_transcripts: int = 90
    requests: int = 2000
    guesses: int = 400
    pairs: int = 300
    secrets: int = 1000
    slices: int = 240


def run(size: Size | None = None) -> Experiment:
    size = size or Size()
    result = Experiment("a", "The server of client-relu learns nothing")
    b, net, rng = backend(), load_network("redcnn-16"), np.random.default_rng()
    real = Table.lay(b, net, size.side)
    _trained(result, real, size, rng)
    _algebra(result, Table.lay(b, net, size.side, whole=True), real, size, rng)
    _samplers(result, size)
    _reconstruction(result, size)
    _hostile_plan(result, real.plan)
    result.facts |= {"network": net.name, "preset": "compact", "side": size.side, "transcripts": size.transcripts}
    return result


def guessed(result: Experiment, name: str, score: Score, *, control: bool = False, blind: bool = False) -> None:
    """``control``: must be caught; ``blind``: a control that this distinguisher is expected to miss, reported only."""
    interval = clopper_pearson(score.hits, score.trials)
    caught = interval[0] > 0.5
    claim = "interval above 0.5: caught" if control else "interval holds 0.5"
    if blind:
        claim = "reported: this distinguisher is blind to it"
    holds = True if blind else caught if control else interval[0] <= 0.5 <= interval[1]
    result.add(f"{name} ({score.trials} guesses)", score.hits / score.trials, claim, holds, interval, control or blind)


def _trained(result: Experiment, real: Table, size: Size, rng: np.random.Generator) -> None:
    x, raws, labels = real.transcripts(real.b, size.transcripts, rng)
    guessed(result, "trained on whole transcripts", trained(x, labels))
    guessed(result, "trained on raw residues of all polynomials", guess_polynomials(raws, labels))
    bodies, chosen = real.first_rounds(real.b, size.requests, rng)
    guessed(result, "trained on raw residues of first requests", guess_requests(real, bodies, chosen))
    x, _, labels = real.transcripts(WeakMask(real.b), size.control_transcripts, rng)
    guessed(result, "control, mask of 30 bits: trained on whole transcripts", trained(x, labels), control=True)
    bodies, chosen = real.first_rounds(WeakMask(real.b), size.requests // 4, rng)
    name = "control, mask of 30 bits: trained on first requests"
    guessed(result, name, guess_requests(real, bodies, chosen), control=True)


def _algebra(result: Experiment, whole: Table, real: Table, size: Size, rng: np.random.Generator) -> None:
    x, _, labels = whole.transcripts(NoNoise(whole.b), size.control_transcripts, rng)
    guessed(result, "control, no noise, c0 whole: trained on whole transcripts", trained(x, labels), blind=True)
    bodies, labels = whole.first_rounds(NoNoise(whole.b), size.guesses // 4, rng)
    guessed(result, "control, no noise, c0 whole: algebra", whole.solve(bodies, labels, rng), control=True)
    bodies, labels = whole.first_rounds(whole.b, size.guesses, rng)
    guessed(result, "hegpu's noise, c0 whole: algebra", whole.solve(bodies, labels, rng))
    bodies, labels = real.first_rounds(real.b, size.guesses, rng)
    guessed(result, "hegpu as it is: algebra", real.solve(bodies, labels, rng))
    guessed(
        result, "control, seed reused for a second slice: difference", real.pairs(60, rng, reuse=True), control=True
    )
    guessed(result, "hegpu, two slices: difference", real.pairs(size.pairs, rng, reuse=False))


def _samplers(result: Experiment, size: Size) -> None:
    b, sound, caught = backend(), f"p > {SAMPLER_P:g}", f"p < {CAUGHT_P:g}: caught"
    p = ternary_p(sampled_secrets(b, size.secrets))
    result.add(f"secrets against uniform trits, chi-squared p ({size.secrets * 4096:,} trits)", p, sound, p > SAMPLER_P)
    p = ternary_p(biased_secrets(1 << 23))
    result.add("control, byte modulo 3: p", p, caught, p < CAUGHT_P, control=True)
    polynomials = size.secrets // 2
    for name in ("compact", "lossless"):
        p = noise_p(recovered_noise(b, preset(name), polynomials))
        text = f"noise recovered with s, preset {name}, against CBD(21): p ({polynomials * 4096:,} values)"
        result.add(text, p, sound, p > SAMPLER_P)
    p = noise_p(rounded_gaussian(polynomials * 4096))
    result.add("control, rounded Gaussian of sigma 3.19: p", p, caught, p < CAUGHT_P, control=True)
    p = noise_p(recovered_noise(b, preset("compact"), 8, NoNoise(b)))
    result.add("control, no noise: p", p, caught, p < CAUGHT_P, control=True)


def _reconstruction(result: Experiment, size: Size) -> None:
    slices, hidden, clear = data(backend(), size.slices)
    blind, seeing = learn(hidden, slices), learn(clear, slices)
    gain = np.array(blind.network) - np.array(blind.mean)
    spread = 3.5 * gain.std() / np.sqrt(len(gain))
    result.add(
        "network from ciphertexts: PSNR above that of the mean slice, dB", gain.mean(), "not above 0",
        gain.mean() - spread <= 0, (gain.mean() - spread, gain.mean() + spread),
    )  # fmt: skip
    gain = np.array(seeing.network) - np.array(seeing.mean)
    spread = 3.5 * gain.std() / np.sqrt(len(gain))
    result.add(
        "control, the same network from the plaintext's integers", gain.mean(), "above 10 dB: it can learn",
        gain.mean() - spread > 10, (gain.mean() - spread, gain.mean() + spread), control=True,
    )  # fmt: skip
    result.facts["psnr"] = {
        "mean slice": float(np.mean(blind.mean)),
        "from ciphertexts": float(np.mean(blind.network)),
        "from plaintext": float(np.mean(seeing.network)),
    }


def _hostile_plan(result: Experiment, plan: Plan) -> None:
    """The client takes its parameters from the server: a plan in a ring that anyone can break must be refused."""
    weak = Parameters("insecure_", 1024, ntt_primes(22, 1024, 2), scale=plan.params.scale)
    text = json.loads(json.dumps(plan.to_json()))
    text["params"] = weak.to_json()
    for r, entry in zip(plan.rounds, text["rounds"], strict=True):
        tiling = plan_tiles(r.tiling.height, r.tiling.width, r.tiling.halo, weak.n)
        entry["tiling"] = {k: getattr(tiling, k) for k in ("height", "width", "halo", "tile_w", "tile_h")}
        entry["group"] = 1
    try:
        refused = Plan.from_json(text).params.security_bits >= 128
    except HegpuError:
        refused = True
    claim = "refused by the client (1) rather than taken (0)"
    result.add("a malicious server's plan with n = 1024 and log2 q = 44", refused, claim, refused)
