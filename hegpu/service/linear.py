"""The ``linear`` protocol as the service runs it: one round, one request, the files of the command line as bodies."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from hegpu.backend.protocol import Backend
from hegpu.ckks.params import Parameters, preset
from hegpu.ckks.wire import Body
from hegpu.errors import FormatError, HegpuError, KeyMismatchError, ModelError, ParameterError
from hegpu.nets.compose import AffineFilter, affine_filter
from hegpu.nets.description import Network
from hegpu.protocols.budget import plan_budget
from hegpu.protocols.linear import denoise_slice
from hegpu.protocols.messages import EncryptedResult, EncryptedSlice, dump_result, dump_slice, load_slice
from hegpu.service.protocols import Plan
from hegpu.tensor import tiles
from hegpu.tensor.tiles import Tiling

NONCE_BYTES = 16
_FIELDS = ("height", "width", "halo", "request_bytes", "answer_bytes")


@dataclass(frozen=True)
class _OneRequest:
    groups: int = 1


@dataclass(frozen=True)
class LinearPlan:
    """Preset and tiling follow from the name, the size and the halo on either side; nothing else is believed."""

    params: Parameters
    tiling: Tiling
    request: int
    answer: int

    @property
    def rounds(self) -> tuple[_OneRequest]:
        return (_OneRequest(),)

    def request_bytes(self, round: int, group: int) -> int:
        return self.request

    def answer_bytes(self, round: int, group: int) -> int:
        return self.answer

    def to_json(self) -> dict[str, Any]:
        t = self.tiling
        numbers = (t.height, t.width, t.halo, self.request, self.answer)
        return {"preset": self.params.name, **dict(zip(_FIELDS, numbers, strict=True))}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "LinearPlan":
        """Errors: :class:`FormatError`."""
        if set(data) != {"preset", *_FIELDS} or not all(type(data[key]) is int for key in _FIELDS):
            raise FormatError(f"plan: a linear plan has a preset and the integers {', '.join(_FIELDS)}; ask again")
        if data["preset"] != "linear":
            raise FormatError(
                f"plan: {data['preset']!r:.40} is not the preset 'linear'; this service is not to be used"
            )
        params = preset("linear")
        height, width, halo, request, answer = (data[key] for key in _FIELDS)
        try:
            tiling = tiles.plan(height, width, halo, params.n)
        except HegpuError as cause:
            raise FormatError(f"plan: the plan cannot be executed ({cause}); ask again") from cause
        if not 0 < answer <= request <= 64 * params.n * tiling.tiles + (1 << 20):
            raise FormatError(f"plan: {request} and {answer} bytes do not fit {tiling.tiles} tiles; ask again")
        return cls(params, tiling, request, answer)


class LinearServer:
    name = "linear"
    presets: tuple[str, ...] = ("linear",)
    discloses_model = False
    keeps_answers = True
    disclosure = (
        "The server sees ciphertexts and the image's size. The client learns the network's output; a linear network is "
        "determined by a few of its outputs, whatever the cryptography."
    )

    def supports(self, net: Network) -> bool:
        try:
            affine_filter(net)
        except ModelError:
            return False
        return True

    def plan(self, backend: Backend, net: Network, preset_name: str, shape: tuple[int, int]) -> LinearPlan:
        affine, params = affine_filter(net), preset(preset_name)
        tiling = tiles.plan(*shape, affine.radius, params.n)
        plan_budget(affine.kernel, affine.bias_hu, params, tiling.tiles * tiling.step_w * tiling.step_h)
        return LinearPlan(params, tiling, *_sizes(backend, params, tiling))

    def load_plan(self, data: dict[str, Any]) -> LinearPlan:
        return LinearPlan.from_json(data)

    def prepare(self, backend: Backend, net: Network, plan: Plan, round: int) -> tuple[LinearPlan, AffineFilter]:
        assert isinstance(plan, LinearPlan)
        return plan, affine_filter(net)

    def answer(
        self, backend: Backend, prepared: tuple[LinearPlan, AffineFilter], nonce: bytes, group: int, body: Body
    ) -> Body:
        plan, affine = prepared
        s = load_slice(backend, body)
        if s.nonce != nonce:
            raise KeyMismatchError("denoise: the slice was encrypted for another session; encrypt it for this one")
        if s.params.hash != plan.params.hash or s.tiling != plan.tiling:
            raise ParameterError("denoise: the slice has other parameters or tiles than were agreed; encrypt it again")
        floor = affine.floor_hu if affine.final_relu else None
        result, _ = denoise_slice(backend, s, affine.kernel, affine.bias_hu, floor)
        return dump_result(backend, result)


def _sizes(backend: Backend, params: Parameters, tiling: Tiling) -> tuple[int, int]:
    """(bytes of every slice file, bytes that no result file exceeds) of this tiling: those of files full of zeros."""
    shape = (tiling.tiles, len(params.q_primes), params.n)
    c0, pk0 = np.zeros(shape, np.uint32), np.zeros(shape[1:], np.uint32)
    s = EncryptedSlice(params, tiling, bytes(16), bytes(NONCE_BYTES), bytes(32), bytes(16), c0, pk0)
    c0 = np.zeros((tiling.tiles, tiling.step_w * tiling.step_h), np.uint32)
    r = EncryptedResult(params, tiling, bytes(16), bytes(16), Fraction(1), None, c0, np.zeros_like(s.c0[:, 0]))
    texts = 1024  # the scale and the floor are written in decimals of any length
    return len(dump_slice(backend, s)), len(dump_result(backend, r)) + texts
