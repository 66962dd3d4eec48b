"""A network learns to draw the slice: from ciphertext residues, and, the same one, from the plaintext's integers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bench.privacy.broken import compose
from hegpu.backend.protocol import Backend
from hegpu.ckks.encrypt import encrypt_symmetric
from hegpu.ckks.keys import generate
from hegpu.ckks.params import preset
from hegpu.ct.phantom import phantom
from hegpu.ring.random import UNIFORM, fresh_key

SIDE = 32
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Drawn:
    """PSNR in dB on slices it has not seen (range: the test slices' own), of the network and of the mean slice."""

    network: list[float]
    mean: list[float]


def data(b: Backend, count: int) -> tuple[F32, F32, F32]:
    """Slices ``[count, 1, y, x]`` in [-1, 1], ciphertext features ``[count, 2, y, x]`` (c0 / Q, c1 / Q) and the plaintext's
    (message / Q, the same c1)."""
    p = preset("compact")
    q, modulus, n = p.q_primes, p.q_primes[0] * p.q_primes[1], p.n
    rng = np.random.default_rng(3)
    slices, hidden, clear = [], [], []
    big = [phantom((128, 128), seed=s) for s in range(40)]
    for _ in range(count):
        y, x = rng.integers(0, 96, 2)
        hu = big[rng.integers(len(big))][y : y + SIDE, x : x + SIDE] + rng.normal(0, 10, (SIDE, SIDE))
        values = np.zeros((1, n), np.int64)
        values[0, : SIDE * SIDE] = np.rint(np.clip(hu, -1024, 1024).ravel() / 1024 * (modulus // 4))
        secret, _ = generate(b, p, fresh_key(), fresh_key())
        seed, one = fresh_key(), np.zeros(1, np.uint32)
        c0 = encrypt_symmetric(b, b.from_signed(values, q), secret, seed, fresh_key(), one)
        c1 = b.intt(b.sample_uniform(seed, UNIFORM, one, n, q), q)
        planes = [compose(v, q)[0, : SIDE * SIDE].reshape(SIDE, SIDE) / modulus * 4 - 2 for v in (c0, c1)]
        slices.append(np.clip(hu, -1024, 1024)[None] / 1024)
        hidden.append(np.stack(planes))
        clear.append(np.stack([values[0, : SIDE * SIDE].reshape(SIDE, SIDE) / modulus * 4, planes[1]]))
    return tuple(np.stack(a).astype(np.float32) for a in (slices, hidden, clear))  # type: ignore[return-value]


def learn(features: F32, slices: F32, steps: int = 160) -> Drawn:
    """Four convolutions; trained on the first 3/4, measured on the rest."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    first = len(slices) * 3 // 4
    x, y = torch.from_numpy(features), torch.from_numpy(slices)
    mean = y[:first].mean(dim=0, keepdim=True)
    layers: list[Any] = [torch.nn.Conv2d(2, 24, 5, padding=2), torch.nn.ReLU()]
    for _ in range(2):
        layers += [torch.nn.Conv2d(24, 24, 5, padding=2), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers, torch.nn.Conv2d(24, 1, 5, padding=2))
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(steps):
        at = torch.randint(0, first, (16,))
        loss = ((net(x[at]) + mean - y[at]) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        guess = net(x[first:]) + mean
    truth = y[first:]
    return Drawn(_psnr(guess, truth), _psnr(mean.expand_as(truth), truth))


def _psnr(guess: Any, truth: Any) -> list[float]:
    error = ((guess - truth) ** 2).mean(dim=(1, 2, 3))
    return [float(v) for v in 10 * torch.log10(4 / error.clamp(min=1e-12))]
