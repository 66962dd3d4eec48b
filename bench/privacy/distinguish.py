"""Distinguishers of the two-image game: features of transcripts, a trained network, and algebra."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bench.privacy.play import NONCE, Server, request_values
from hegpu.backend.protocol import Backend
from hegpu.protocols.client_relu.messages import load_answer, load_request
from hegpu.protocols.client_relu.plan import Plan
from hegpu.ring.random import UNIFORM

F32 = npt.NDArray[np.float32]
RAW = 256


def describe(v: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """22 numbers of values in [0, 1): histogram, moments, dependence on neighbours, extremes."""
    centred = v - 0.5
    cells = np.histogram(v, 16, (0, 1))[0] / v.size * 16
    lags = [float((centred[..., :-lag] * centred[..., lag:]).mean()) * 12 for lag in (1, width)]
    return np.array([*cells, centred.mean(), (centred**2).mean(), *lags, v.min(), v.max()])


def features(b: Backend, server: Server) -> tuple[F32, F32]:
    """(one row of a whole transcript, raw residues ``[polynomials, RAW]``): seeds, what arrived, what was answered."""
    plan, row, raw = server.plan, [], []
    for (index, group, body), (_, _, reply) in zip(server.requests, sorted(server.answers), strict=True):
        r = plan.rounds[index]
        seed, v = request_values(b, plan, index, group, body)
        unit = v / float(1 << int(plan.modulus >> plan.params.c0_drop_up).bit_length())
        if group == 0:
            row.append(np.frombuffer(seed, np.uint8) / 128 - 1)
        row.append(describe(unit, r.tiling.tile_w))
        raw.append(unit[:, 0, :RAW])
        c0, c1 = load_answer(plan, NONCE, index, group, reply)
        words = [(c0, len(r.c0_form.positions), r.bits - r.drop), (c1, plan.params.n, r.bits)]
        for packed, count, bits in words if r.bits else []:
            row.append(describe(b.unpack_bits(packed, bits, count) / 2.0**bits, r.tiling.tile_w))
    return np.concatenate(row).astype(np.float32), np.concatenate(raw).astype(np.float32)


@dataclass(frozen=True)
class Score:
    hits: int
    trials: int


def trained(
    x: F32,
    y: npt.NDArray[np.int64],
    *,
    games: npt.NDArray[np.int64] | None = None,
    steps: int = 300,
    seed: int = 0,
) -> Score:
    """A two-layer network and a logistic regression learn from the first 6/10 of the games, the better one on the next
    1/10 is chosen, and the last 3/10 are guessed once each.

    ``games`` ``[rows]``: which game a row belongs to, ascending. Rows of a game share its label, so they are one guess,
    by the sum of their log odds: counted apart they would be no independent trials.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    of = torch.arange(len(x)) if games is None else torch.from_numpy(games)
    count = int(of[-1]) + 1
    first, second = count * 6 // 10, count * 7 // 10
    rows = int((of < first).sum())
    mean, spread = x[:rows].mean(axis=0), x[:rows].std(axis=0) + 1e-9
    data, labels = torch.from_numpy((x - mean) / spread).clamp(-8, 8), torch.from_numpy(y.astype(np.float32))
    truth = torch.zeros(count).index_put((of,), labels) > 0.5
    models = [
        torch.nn.Linear(x.shape[1], 1),
        torch.nn.Sequential(
            torch.nn.Linear(x.shape[1], 64), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(64, 1)
        ),
    ]
    scores = []
    for model in models:
        optimiser = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.05)
        for step in range(steps):
            at = torch.randint(0, rows, (min(256, rows),), generator=torch.Generator().manual_seed(seed + step))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(data[at])[:, 0], labels[at])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        model.eval()
        with torch.no_grad():
            right = (torch.zeros(count).index_add(0, of, model(data)[:, 0]) > 0) == truth
        scores.append((int(right[first:second].sum()), int(right[second:].sum())))
    return Score(max(scores, key=lambda score: score[0])[1], count - second)


def ternary_share(b: Backend, plan: Plan, body: bytes, message: Any) -> float:
    """The server's algebra on round 0: were ``message`` ``[1, tiles, n]`` what is encrypted without noise, then
    (m - c0) / c1 would be the secret. Share of its coefficients in {-1, 0, 1}: 1 if so, else about 3 / q."""
    q, n = plan.params.q_primes, plan.params.n
    seed, _ = load_request(plan, NONCE, 0, 0, body)
    v = request_values(b, plan, 0, 0, body)[1][0, :1] << np.uint64(plan.params.c0_drop_up)
    c1 = b.sample_uniform(seed, UNIFORM, plan.rounds[0].objects(0)[0, :1], n, q)
    rest = b.from_signed(message[0, :1].astype(np.int64) - v.astype(np.int64), q)
    top, limb = b.ntt(rest, q)[0, 0], q[0]
    inverse = _inverse(c1[0, 0], limb)
    guess = b.intt(b.mul(top[None], inverse[None], (limb,)), (limb,))[0].astype(np.int64)
    return float(np.mean((guess <= 1) | (guess == limb - 1)))


def _inverse(x: npt.NDArray[np.uint32], q: int) -> npt.NDArray[np.uint32]:
    """x^(q-2) modulo q."""
    base, result, power = x.astype(np.uint64), np.ones(x.shape, np.uint64), q - 2
    while power:
        if power & 1:
            result = result * base % np.uint64(q)
        base = base * base % np.uint64(q)
        power >>= 1
    return result.astype(np.uint32)
