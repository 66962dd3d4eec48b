"""Encryption parameters: frozen, checked at construction; presets."""

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

from hegpu.ckks.chain import chain, digit_groups, scales, step
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
    levels        -- what rescaling steps through: at level l the modulus is the product of ``levels[l]``, a subset
                     of the q primes; empty where nothing is rescaled by level
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
    levels: tuple[tuple[int, ...], ...] = ()

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
        self._check_levels(what)
        if not self.name.startswith("insecure_"):
            require(what, self.n, math.prod(primes), self.security)

    def _check_levels(self, what: str) -> None:
        known = set(self.q_primes)
        moduli = [math.prod(level) for level in self.levels]
        for level in self.levels:
            if not level or not set(level) <= known or len(set(level)) != len(level):
                raise ParameterError(f"{what}: a level is not a set of q primes")
        if any(high <= low for low, high in pairwise(moduli)) or len(moduli) > 64:
            raise ParameterError(f"{what}: the moduli of the levels do not grow, or are more than 64")
        if self.levels and self.p_primes and digit_groups(self.q_primes, self.p_primes) is None:
            raise ParameterError(f"{what}: the special primes are too small to switch keys")

    @property
    def depth(self) -> int:
        """The level of a fresh ciphertext: how many rescales it can take."""
        return len(self.levels) - 1

    @cached_property
    def scales(self) -> tuple[Fraction, ...]:
        """The scale that belongs to each level. Errors: :class:`ParameterError` where there are no levels."""
        if not self.levels:
            raise ParameterError(f"preset {self.name!r} has no levels to compute on; use one of {', '.join(LEVELLED)}")
        return scales(self.levels, self.scale)

    @cached_property
    def level_bits(self) -> tuple[float, ...]:
        """log2 of the modulus at each level."""
        return tuple(math.log2(math.prod(level)) for level in self.levels)

    @cached_property
    def step_sizes(self) -> tuple[float, ...]:
        """What a rescale from each level divides by (1 at level 0)."""
        return (1.0, *(float(step(self.levels, level)) for level in range(1, len(self.levels))))

    @cached_property
    def digits(self) -> tuple[int, ...]:
        """How many consecutive q primes each digit of a key switch holds."""
        groups = digit_groups(self.q_primes, self.p_primes) if self.p_primes else None
        if groups is None:
            raise ParameterError(
                f"preset {self.name!r} has no special primes, so no key can be switched; use one of {', '.join(LEVELLED)}"
            )
        return groups

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

    def __hash__(self) -> int:
        return hash(self.hash)

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
            **({"levels": [[self.q_primes.index(q) for q in level] for level in self.levels]} if self.levels else {}),
        }

    @staticmethod
    def from_json(value: Any) -> "Parameters":
        """Errors: :class:`FormatError` for anything but what :meth:`to_json` writes, :class:`ParameterError` or
        :class:`SecurityError` for parameters that the constructor refuses."""
        try:
            integers = [value["n"], value["c0_drop_up"], value["c0_drop_down"], value["security"]]
            primes = [*value["q_primes"], *value["p_primes"]]
            levels = value.get("levels", [])
            places = [place for level in levels for place in level]
            if type(levels) is not list or len(places) > 64 * 200 or any(type(v) is not int or v < 0 for v in places):
                raise FormatError("Parameters: the levels are damaged; get the file again")
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
                tuple(tuple(value["q_primes"][place] for place in level) for level in levels),
            )
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError) as cause:
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

# Name: ring degree and depth. Scales near 2^40, results up to 2^9.
LEVELLED = {
    "ckks-13": (1 << 13, 2),
    "ckks-14": (1 << 14, 6),
    "ckks-15": (1 << 15, 14),
    "ckks-16": (1 << 16, 31),
    # Rings that anyone can break: for tests.
    "insecure_ckks": (1 << 10, 4),
    "insecure_ckks_deep": (1 << 10, 9),
}


@cache
def _levelled(name: str) -> Parameters:
    n, depth = LEVELLED[name]
    weak = name.startswith("insecure_")
    return levelled(name, n, depth, security=0 if weak else 128, digits=3 if weak else 0)


def levelled(
    name: str, n: int, depth: int, *, first_bits: int = 50, scale_bits: int = 40, security: int = 128, digits: int = 0
) -> Parameters:
    """Parameters for ``depth`` products in a row; see :func:`hegpu.ckks.chain.chain` for the rest.

    Values up to ``2^(first_bits - scale_bits - 1)`` survive at level 0.
    """
    c = chain(
        f"Parameters {name!r}", n, depth, first_bits=first_bits, scale_bits=scale_bits, security=security, digits=digits
    )
    return Parameters(name, n, c.q_primes, c.p_primes, c.scale, 0, 0, security or 128, c.levels)


def preset(name: str) -> Parameters:
    """The preset called ``name``. Errors: :class:`ParameterError` that lists the names."""
    if name in LEVELLED:
        return _levelled(name)
    presets = _presets()
    if name not in presets:
        raise ParameterError(f"preset: there is no preset {name!r}; choose one of {', '.join([*presets, *LEVELLED])}")
    return presets[name]
