"""Encryption parameters: frozen, checked at construction; presets."""

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

from hegpu.ckks.security import require, security_level
from hegpu.errors import FormatError, HegpuError, ParameterError
from hegpu.ring.primes import is_prime, ntt_primes


def parse_fraction(text: Any) -> Fraction:
    """``"numerator/denominator"`` in decimal digits, at most 200 each and nothing else: ``Fraction`` itself would take
    hours over a hostile exponent. Errors: :class:`FormatError`."""
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{1,200}/[1-9][0-9]{0,199}", text, re.ASCII):
        raise FormatError(f"scale: {text!r:.40} is not 'numerator/denominator'; the file is damaged or hostile")
    return Fraction(text)


@dataclass(frozen=True)
class Parameters:
    """RNS-CKKS parameters.

    name          -- what the preset is called; weaker than ``security`` bits only if it starts with "insecure_"
    n             -- ring degree, a power of two, 2^10..2^16
    q_primes      -- the modulus chain, each 1 mod 2n and below 2^30; the last are dropped first
    p_primes      -- special primes for key switching (none where no key is switched)
    scale         -- units per 1.0 of a fresh plaintext (per HU in ``linear``)
    c0_drop_up    -- low bits of a fresh c0 that are rounded away on the wire
    c0_drop_down  -- the same for the c0 that a server returns
    security      -- bits by the 2024 table, on the exact product of all primes
    Secrets are uniform ternary, errors CBD(21) (sigma 3.24): the only choices.
    """

    name: str
    n: int
    q_primes: tuple[int, ...]
    p_primes: tuple[int, ...] = ()
    scale: Fraction = field(default=Fraction(1 << 40))
    c0_drop_up: int = 0
    c0_drop_down: int = 0
    security: int = 128

    def __post_init__(self) -> None:
        what = f"Parameters {self.name!r}"
        if not 1 << 10 <= self.n <= 1 << 16 or self.n & (self.n - 1):
            raise ParameterError(f"{what}: n = {self.n} is not a power of two from 2^10 to 2^16")
        primes = self.q_primes + self.p_primes
        if not self.q_primes or len(primes) > 200 or len(set(primes)) != len(primes):
            raise ParameterError(f"{what}: the primes must be distinct, at least one and at most 200")
        for q in primes:
            if not 2 < q < 1 << 30 or q % (2 * self.n) != 1 or not is_prime(q):
                raise ParameterError(f"{what}: {q} is not a prime below 2^30 that is 1 modulo 2n = {2 * self.n}")
        if not 1 <= self.scale < math.prod(self.q_primes):
            raise ParameterError(f"{what}: the scale {float(self.scale):.4g} is not in [1, Q)")
        if not (0 <= self.c0_drop_up <= 16 and 0 <= self.c0_drop_down <= 16):
            raise ParameterError(f"{what}: c0 can lose 0..16 bits, not {self.c0_drop_up} and {self.c0_drop_down}")
        if not self.name.startswith("insecure_"):
            require(what, self.n, math.prod(primes), self.security)

    @property
    def log2_q(self) -> float:
        return math.log2(math.prod(self.q_primes))

    @property
    def security_bits(self) -> int:
        """By the table: 256, 192, 128 or 0."""
        return security_level(self.n, math.prod(self.q_primes + self.p_primes))

    @cached_property
    def hash(self) -> str:
        """32 hex digits that stand for every field."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "n": self.n,
            "q_primes": list(self.q_primes),
            "p_primes": list(self.p_primes),
            "scale": f"{self.scale.numerator}/{self.scale.denominator}",
            "c0_drop_up": self.c0_drop_up,
            "c0_drop_down": self.c0_drop_down,
            "security": self.security,
        }

    @staticmethod
    def from_json(value: Any) -> "Parameters":
        """Errors: :class:`FormatError` for anything but what :meth:`to_json` writes, :class:`ParameterError` or
        :class:`SecurityError` for parameters that the constructor refuses."""
        try:
            integers = [value["n"], value["c0_drop_up"], value["c0_drop_down"], value["security"]]
            primes = [*value["q_primes"], *value["p_primes"]]
            if type(value["q_primes"]) is not list or type(value["p_primes"]) is not list:
                raise FormatError("Parameters: the primes are not lists; the file is damaged")
            if any(type(v) is not int for v in integers + primes) or len(primes) > 200:
                raise FormatError("Parameters: a number is not an integer; the file is damaged")
            if not isinstance(value["name"], str) or len(value["name"]) > 64:
                raise FormatError("Parameters: the name is damaged; get the file again")
            return Parameters(
                value["name"],
                value["n"],
                tuple(value["q_primes"]),
                tuple(value["p_primes"]),
                parse_fraction(value["scale"]),
                value["c0_drop_up"],
                value["c0_drop_down"],
                value["security"],
            )
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError) as cause:
            if isinstance(cause, HegpuError):
                raise
            raise FormatError(f"Parameters: damaged or of another version ({cause}); get the file again") from cause


def _presets() -> dict[str, Parameters]:
    return {
        # 90 of 106 bits: 71 for HU and flooding, 17 for weights; answers come back modulo one 30-bit prime.
        "linear": Parameters("linear", 4096, ntt_primes(30, 4096, 3), scale=Fraction(1 << 59), c0_drop_down=4),
        # Smallest traffic with about 1e-4 relative error a layer; primes below 2^22 take the fast matrix product.
        "compact": Parameters(
            "compact", 4096, ntt_primes(22, 4096, 2), scale=Fraction(1 << 22), c0_drop_up=6, c0_drop_down=5
        ),
        # The same for networks that need a little more room.
        "compact-23": Parameters(
            "compact-23", 4096, ntt_primes(23, 4096, 2), scale=Fraction(1 << 22), c0_drop_up=6, c0_drop_down=5
        ),
        "compact-25": Parameters(
            "compact-25", 4096, ntt_primes(25, 4096, 2), scale=Fraction(1 << 22), c0_drop_up=6, c0_drop_down=5
        ),
        # Half of float32's own error a layer.
        "lossless": Parameters(
            "lossless", 4096, ntt_primes(30, 4096, 2), scale=Fraction(1 << 29), c0_drop_up=5, c0_drop_down=4
        ),
        # `linear` in a ring that anyone can break: for tests and attacks.
        "insecure_test": Parameters(
            "insecure_test", 1024, ntt_primes(30, 1024, 3), scale=Fraction(1 << 59), c0_drop_down=4
        ),
    }


PRESETS = tuple(_presets())


def preset(name: str) -> Parameters:
    """The preset called ``name``. Errors: :class:`ParameterError` that lists the names."""
    presets = _presets()
    if name not in presets:
        raise ParameterError(f"preset: there is no preset {name!r}; choose one of {', '.join(presets)}")
    return presets[name]
