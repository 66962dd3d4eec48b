"""The plan of a run: everything that both sides must agree on, chosen from the network by a stated error budget.

``compact``: the smallest traffic whose predicted error is at most 0.1 HU rms. ``lossless``: 60 bits of modulus; its error
must be at most half of the one that float32 execution itself makes. Nothing depends on the slice but its shape.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hegpu.ckks.params import Parameters, preset
from hegpu.errors import BudgetError, FormatError, HegpuError
from hegpu.nets.description import INPUT, Network
from hegpu.nets.outline import Outline, outline
from hegpu.nets.plaintext import plane_sizes
from hegpu.protocols.client_relu.calibration import Calibration, calibrate
from hegpu.protocols.client_relu.rounds import Round
from hegpu.protocols.client_relu.weights import choose
from hegpu.tensor.tiles import Tiling, plan

COMPACT_HU = 0.1
SETS = {"compact": ("compact", "compact-23", "compact-25"), "lossless": ("lossless",)}
ANSWER_BITS = {"compact": range(22, 30), "lossless": range(36, 45)}
INPUT_BITS = {"compact": 30, "lossless": 40}  # what int32 and int64 planes may hold
GROUP_POLYNOMIALS = 27 * 96  # tiles times channels at once: 170 MB of residues each for input and answer
LEAST_GROUPS = 3  # so that encryption, the server and decryption overlap
_NUMBERS = ("index", "inputs", "planes", "group", "limit", "weight_bits", "bits", "drop")


@dataclass(frozen=True)
class Plan:
    """``error_hu``: predicted rms difference to the float64 network; ``float32_hu``: what float32 execution differs by,
    measured on calibration slices. ``sigmas``: predicted error of each pre-activation, network units."""

    preset: str
    params: Parameters
    outline: Outline
    shape: tuple[int, int]
    rounds: tuple[Round, ...]
    quads: tuple[tuple[tuple[float, ...], tuple[float, ...]] | None, ...]
    input_range: float
    sigmas: tuple[float, ...]
    error_hu: float
    float32_hu: float

    @property
    def wide(self) -> bool:
        """Whether a client's planes are int64 rather than int32."""
        return any(r.bits > 32 for r in self.rounds) or any(r.limit > 1 << 30 for r in self.rounds)

    @property
    def dtype(self) -> type[np.int32] | type[np.int64]:
        return np.int64 if self.wide else np.int32

    @property
    def modulus(self) -> int:
        return math.prod(self.params.q_primes)

    @cached_property
    def hash(self) -> str:
        """32 hex digits that stand for every field."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16, person=b"client-relu plan").hexdigest()

    def to_json(self) -> dict[str, Any]:
        return {
            "protocol": "client-relu",
            "version": 1,
            "preset": self.preset,
            "params": self.params.to_json(),
            "outline": self.outline.to_json(),
            "shape": list(self.shape),
            "rounds": [_round_json(r) for r in self.rounds],
            "quads": [q and [list(q[0]), list(q[1])] for q in self.quads],
            "input_range": self.input_range,
            "sigmas": list(self.sigmas),
            "error_hu": self.error_hu,
            "float32_hu": self.float32_hu,
        }

    @staticmethod
    def from_json(value: Any) -> Plan:
        """Errors: :class:`FormatError` for anything but a consistent plan."""
        try:
            if value["protocol"] != "client-relu" or value["version"] != 1:
                raise FormatError("Plan: not a client-relu plan of version 1; use the hegpu version of the server")
            params, lines = Parameters.from_json(value["params"]), Outline.from_json(value["outline"])
            numbers = [value["input_range"], value["error_hu"], value["float32_hu"], *value["sigmas"]]
            shape = (value["shape"][0], value["shape"][1])
            if any(type(v) is not int for v in shape) or any(type(v) not in (int, float) for v in numbers):
                raise FormatError("Plan: a number is damaged; ask the server again")
            result = Plan(
                preset=str(value["preset"])[:32],
                params=params,
                outline=lines,
                shape=shape,
                rounds=tuple(_round(entry, params.n) for entry in value["rounds"]),
                quads=tuple(q and (tuple(map(float, q[0])), tuple(map(float, q[1]))) for q in value["quads"]),
                input_range=float(value["input_range"]),
                sigmas=tuple(map(float, value["sigmas"])),
                error_hu=float(value["error_hu"]),
                float32_hu=float(value["float32_hu"]),
            )
            _check(result)
            return result
        except FormatError:
            raise
        except (HegpuError, KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as cause:
            raise FormatError(f"Plan: damaged or hostile ({cause!s:.120}); ask the server again") from cause

    def request_bytes(self, index: int, group: int) -> int:
        """The exact size of a request's body."""
        from hegpu.protocols.client_relu.messages import request_size

        return request_size(self, index, group)

    def answer_bytes(self, index: int, group: int) -> int:
        """The exact size of an answer's body."""
        from hegpu.protocols.client_relu.messages import answer_size

        return answer_size(self, index, group)


def plan_network(net: Network, preset_name: str, shape: tuple[int, int]) -> Plan:
    """The plan of ``net`` for slices of ``shape``. Errors: :class:`BudgetError` where no parameters meet the budget."""
    if preset_name not in SETS:
        raise BudgetError(f"client-relu: there is no preset {preset_name!r:.40}; use {' or '.join(SETS)}")
    seen = calibrate(net)
    allowed = COMPACT_HU if preset_name == "compact" else seen.float32_hu / 2
    best: Plan | None = None
    for params in map(preset, SETS[preset_name]):
        for bits in ANSWER_BITS[preset_name]:
            candidate = _try(net, preset_name, params, bits, shape, seen)
            if candidate is None:
                continue
            if candidate.error_hu <= allowed:
                return candidate
            best = candidate if best is None or candidate.error_hu < best.error_hu else best
    reached = "every choice of scales wraps" if best is None else f"{best.error_hu:.3g} HU rms is the least possible"
    raise BudgetError(
        f"client-relu: preset {preset_name!r} does not hold network {net.name!r}: {reached}, "
        f"{allowed:.3g} HU are allowed; "
        "use 'lossless', or a network of smaller weights"
    )


def _try(
    net: Network, name: str, params: Parameters, bits: int, shape: tuple[int, int], seen: Calibration
) -> Plan | None:
    rounds, sigmas = [], []
    for index, (layer, (rows, columns)) in enumerate(zip(net.layers, plane_sizes(net, shape), strict=True)):
        last = index == len(net.layers) - 1
        source = net.source_of(index)
        scales = choose(
            net, index, params, 0 if last else bits, INPUT_BITS[name], seen.ranges[source], seen.mean_square[source]
        )
        if scales is None:
            return None
        tiling = plan(rows, columns, layer.radius, params.n)
        most = max(3, GROUP_POLYNOMIALS // max(layer.inputs, layer.planes) // 3 * 3)
        groups = max(-(-tiling.tiles // most), min(LEAST_GROUPS, tiling.tiles))
        rounds.append(
            Round(
                index, layer.inputs, layer.planes, tiling, -(-tiling.tiles // groups), scales.limit, scales.in_scale,
                scales.weight_bits, seen.ranges[layer.name], 0 if last else bits, 0 if last else params.c0_drop_down,
            )
        )  # fmt: skip
        sigmas.append(scales.sigma)
    error = net.hu_scale * math.sqrt(sum((g * s) ** 2 for g, s in zip(seen.gains, sigmas, strict=True)))
    return Plan(
        name, params, outline(net), shape, tuple(rounds), _quads(net), seen.ranges[INPUT], tuple(sigmas), error,
        seen.float32_hu,
    )  # fmt: skip


def _quads(net: Network) -> tuple[tuple[tuple[float, ...], tuple[float, ...]] | None, ...]:
    def one(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        linear, square = (tuple(net.weights[f"{name}.{part}"].astype(float).tolist()) for part in ("linear", "square"))
        return linear, square

    return tuple(one(layer.name) if layer.activation == "quad" else None for layer in net.layers)


def _round_json(r: Round) -> dict[str, Any]:
    sides = {k: getattr(r.tiling, k) for k in ("height", "width", "halo", "tile_w", "tile_h")}
    numbers = {k: getattr(r, k) for k in _NUMBERS}
    return {**numbers, "in_scale": r.in_scale, "output_range": r.output_range, "tiling": sides}


def _round(entry: dict[str, Any], n: int) -> Round:
    sides = {k: entry["tiling"][k] for k in ("height", "width", "halo", "tile_w", "tile_h")}
    if any(type(v) is not int for v in [*sides.values(), *(entry[k] for k in _NUMBERS)]):
        raise FormatError("Plan: a number of a round is no integer; ask the server again")
    values = {k: entry[k] for k in _NUMBERS}
    return Round(
        tiling=Tiling(n, **sides),
        in_scale=float(entry["in_scale"]),
        output_range=float(entry["output_range"]),
        **values,
    )


def _check(p: Plan) -> None:
    """What a client must not take on trust: that the rounds are the layers, and that sizes and limits are sane."""
    if p.params not in [preset(name) for name in SETS.get(p.preset, ())]:  # a server does not choose the security
        raise FormatError(f"Plan: parameters {p.params.name!r} are not of preset {p.preset!r}; do not use this server")
    if not len(p.rounds) == len(p.quads) == len(p.sigmas) == len(p.outline.layers):
        raise FormatError("Plan: the rounds are not the network's layers; ask the server again")
    sizes = plane_sizes(p.outline, p.shape)
    for index, (r, layer, size) in enumerate(zip(p.rounds, p.outline.layers, sizes, strict=True)):
        last = index == len(p.rounds) - 1
        ok = (r.index, r.inputs, r.planes, r.tiling.halo) == (index, layer.inputs, layer.planes, layer.radius)
        ok = ok and (r.tiling.height, r.tiling.width) == size and 1 <= r.group <= r.tiling.tiles
        ok = ok and 1 << 8 <= r.limit <= 1 << (40 if p.wide else 30) and r.in_scale > 0 and 0 < r.output_range < 1e12
        ok = ok and 0 <= r.weight_bits <= 40 and 0 <= r.drop <= 16
        ok = ok and (r.bits == 0 if last else r.drop < r.bits <= 44 and p.params.n << r.bits < p.modulus)
        quad = p.quads[index]
        ok = ok and (quad is not None) == (layer.activation == "quad")
        ok = ok and (quad is None or (len(quad[0]) == len(quad[1]) == layer.outputs))
        if not ok:
            raise FormatError(f"Plan: round {index} contradicts its layer or its limits; ask the server again")
    if not 0 < p.input_range < 1e9:
        raise FormatError("Plan: the input range is out of range; ask the server again")
