"""(c) Two filters with the same output: does the answer's noise tell a client of ``linear`` which one served it?"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import stats

from bench.privacy.linear_server import Insider, serve
from bench.privacy.play import backend
from bench.privacy.result import Experiment
from bench.privacy.stats import CONFIDENCE, clopper_pearson, gaussian_advantage
from hegpu.backend.protocol import Backend
from hegpu.ckks.encrypt import decrypt
from hegpu.ckks.params import preset
from hegpu.protocols.budget import Budget, plan_budget
from hegpu.protocols.linear import MasterKey, _released, denoise_slice, encrypt_slice
from hegpu.ring.random import fresh_key
from hegpu.tensor.tiles import plan as plan_tiles

F64 = npt.NDArray[np.float64]
HALO = 2


@dataclass(frozen=True)
class Size:
    preset: str = "linear"
    side: int = 40
    trials: int = 400
    product_trials: int = 600
    bits: list[int] = field(default_factory=lambda: [1, 12, 16, *range(19, 30)])


def filters() -> dict[str, F64]:
    """5 x 5, of sum 1 on multiples of 2^-12: A and B are alike in width; C smooths hard, D not at all,
    E is as large as a filter may be, weights of both signs."""
    a, b = np.zeros((5, 5)), np.zeros((5, 5))
    a[2, 2], a[2, 1], a[2, 3] = 0.5, 0.25, 0.25
    b[2, 2], b[1, 2], b[3, 2] = 0.5, 0.25, 0.25
    c = np.full((5, 5), 163.0)
    c[2, 2] += 4096 - c.sum()
    d = np.zeros((5, 5))
    d[2, 2] = 1
    e = np.full(25, 819.0)
    e[:10] *= -1
    e[12] += 4096 - e.sum()
    return {"A": a, "B": b, "C": c / 4096, "D": d, "E": e.reshape(5, 5) / 4096}


@dataclass
class Bench:
    b: Backend
    size: Size
    keys: MasterKey
    hu: F64
    budgets: dict[str, Budget]

    @staticmethod
    def build(size: Size) -> "Bench":
        params = preset(size.preset)
        tiling = plan_tiles(size.side, size.side, HALO, params.n)
        budgets = {name: plan_budget(kernel, 0.0, params, _released(tiling)) for name, kernel in filters().items()}
        hu = np.full((size.side, size.side), 40.0)
        return Bench(backend(), size, MasterKey(params, fresh_key()), hu, budgets)

    def insider(self) -> Insider:
        return Insider.of(self.b, self.hu, encrypt_slice(self.b, self.hu, self.keys, HALO), self.keys)

    def unflooded(self, label: int, flood_bits: int | None) -> tuple[bool, float]:
        """One game against a server with this flooding, its answer before the switch. (right, distance): the best test,
        and how many standard deviations of all other noise the two hypotheses are apart."""
        client = self.insider()
        weights = [self.budgets[name].weights for name in ("A", "B")]
        answer = serve(self.b, client.s, weights[label], flood_bits=flood_bits)
        noise = client.answer_noise(answer, client.through(weights[0], client.message))
        return self._test(client, noise, label, flood_bits)

    def _test(self, client: Insider, noise: F64, label: int, flood_bits: int | None) -> tuple[bool, float]:
        a, b = (client.filtered_noise(self.budgets[name].weights) for name in ("A", "B"))
        statistic = float(((noise - (a + b) / 2) * (b - a)).sum())
        zero_variance = 10.5 * (2 * 2 / 3 * self.keys.params.n + 1)
        wide = 0.0 if flood_bits is None else 2 / 3 * 4.0**flood_bits
        distance = float(np.sqrt(((b - a) ** 2).sum() / (zero_variance + wide)))
        return (statistic > 0) == bool(label), distance

    def product(self, names: tuple[str, str], label: int) -> tuple[bool, float, str]:
        """One game against ``denoise_slice``. (right by the same test, rms of the answer's noise in HU, its scale)."""
        client = self.insider()
        result, _ = denoise_slice(self.b, client.s, filters()[names[label]], 0.0)
        q, params, positions = (result.modulus,), self.keys.params, client.s.tiling.valid_coefficients()
        product = decrypt(self.b, np.zeros_like(result.c1)[:, None], result.c1[:, None], client.secret, q)
        total = product[:, 0][:, positions].astype(np.int64) + (result.c0.astype(np.int64) << params.c0_drop_down)
        value = (total - round((self.hu[0, 0] - 1024) * float(result.scale))) % q[0]
        noise = np.where(value > q[0] // 2, value - q[0], value).astype(np.float64)
        a, b = (client.filtered_noise(self.budgets[name].weights) for name in names)
        statistic = float(((noise - noise.mean()) * (b - a)).sum())
        return (statistic > 0) == bool(label), float(noise.std() / float(result.scale)), str(result.scale)


def advantage(hits: int, trials: int) -> tuple[float, tuple[float, float]]:
    low, high = clopper_pearson(hits, trials)
    return 2 * hits / trials - 1, (2 * low - 1, 2 * high - 1)


def run(size: Size | None = None) -> Experiment:
    size = size or Size()
    bench, rng = Bench.build(size), np.random.default_rng()
    result = Experiment("c", "Two filters of equal sum on a constant slice")
    flooding = bench.budgets["A"].flood_bits
    result.facts |= {
        "preset": size.preset, "side": size.side, "weight bits": bench.budgets["A"].weight_bits,
        "flooding bits of the product": {name: budget.flood_bits for name, budget in bench.budgets.items()},
        "weight bits by filter": {name: budget.weight_bits for name, budget in bench.budgets.items()},
    }  # fmt: skip
    _curve(result, bench, rng)
    hits = sum(bench.product(("A", "B"), label)[0] for label in rng.integers(0, 2, size.product_trials).tolist())
    value, interval = advantage(hits, size.product_trials)
    name = f"advantage against hegpu, A or B ({size.product_trials} games)"
    result.add(name, value, "interval holds 0", interval[0] <= 0 <= interval[1], interval)
    _, distance = bench.unflooded(0, flooding)
    predicted = gaussian_advantage(distance)
    result.add(f"predicted at hegpu's {flooding} bits", predicted, "below 2^-40", predicted < 2.0**-40)
    _widths(result, bench, rng)
    return result


def _curve(result: Experiment, bench: Bench, rng: np.random.Generator) -> None:
    size, rows = bench.size, []
    for bits in [None, *size.bits]:
        games = [bench.unflooded(int(label), bits) for label in rng.integers(0, 2, size.trials)]
        value, interval = advantage(sum(right for right, _ in games), size.trials)
        rows.append(
            (-1 if bits is None else bits, value, *interval, np.mean([gaussian_advantage(d) for _, d in games]))
        )
        if bits is None:
            name = f"control, re-randomised but not flooded: advantage ({size.trials} games)"
            result.add(name, value, "interval above 0: caught", interval[0] > 0, interval, control=True)
    table = np.array(rows)
    inside = (table[:, 4] >= table[:, 2]) & (table[:, 4] <= table[:, 3])
    chance = float(stats.binom.sf(int((~inside).sum()) - 1, len(table), 1 - CONFIDENCE)) if not inside.all() else 1.0
    claim = "as many as the intervals allow (chance of it above 1e-3)"
    name = f"widths of {len(table)} where the formula lies in the measured interval"
    result.add(name, int(inside.sum()), claim, chance > 1e-3)
    result.curves["advantage"] = dict(zip(("x", "y", "low", "high", "predicted"), table.T.tolist(), strict=True))


def _widths(result: Experiment, bench: Bench, rng: np.random.Generator) -> None:
    """The flooding's width is itself visible, so it may not follow the filter. C and D have the same output on this slice."""
    games = 40
    spreads = {label: np.mean([bench.product(("C", "D"), label)[1] for _ in range(5)]) for label in (0, 1)}
    border = float(np.sqrt(spreads[0] * spreads[1]))
    hits = 0
    for label in rng.integers(0, 2, games).tolist():
        _, spread, _ = bench.product(("C", "D"), label)
        hits += ((spread > border) == (spreads[1] > spreads[0])) == bool(label)
    value, interval = advantage(hits, games)
    name = f"advantage against hegpu from the answer's spread alone, C or D ({games} games)"
    result.add(name, value, "interval holds 0", interval[0] <= 0 <= interval[1], interval)
    scales = {budget.weight_bits for budget in bench.budgets.values()}
    name = "scales that answers name in their headers over filters A to E"
    result.add(name, len(scales), "1: the scale tells nothing of the filter", len(scales) == 1)
    result.facts["noise of an answer, HU rms"] = {"C": float(spreads[0]), "D": float(spreads[1])}
