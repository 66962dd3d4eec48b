"""How much a key's decryptions have told: one small file in the key's folder.

A decrypted value that others see is a linear equation in the secret, as precise as its noise is small beside the step it
is rounded to (Li and Micciancio, EUROCRYPT 2021). The account adds up values times noise variance in units of the
rounding step; a key is spent when that sum passes a bound which the protocol sets.
"""

import fcntl
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hegpu.errors import BudgetError, FormatError, ParameterError
from hegpu.files import write_atomic

NAME = "ledger.json"


@dataclass(frozen=True)
class Ledger:
    """The account in ``folder``. ``bound``: the largest sum per key. Several processes may use one folder."""

    folder: Path
    bound: float

    def __post_init__(self) -> None:
        if not 0 < self.bound < math.inf:
            raise ParameterError(f"Ledger: bound {self.bound} is not a positive number")

    def spent(self, fingerprint: bytes) -> float:
        """The sum so far. Errors: :class:`FormatError` for a damaged file: a lost account is not an empty one."""
        return self._read().get(fingerprint.hex(), 0.0)

    def charge(self, fingerprint: bytes, values: int, variance: float) -> float:
        """Enter ``values`` decrypted values with noise of ``variance`` rounding steps squared; the new sum.

        Call it before the values are used: the entry is on disk when it returns. Errors: :class:`BudgetError` if the
        bound would be passed; nothing is entered then, and nothing may be decrypted.
        """
        if values < 0 or not 0 <= variance < math.inf:
            raise ParameterError(f"charge: {values} values with variance {variance} cannot be entered")
        with self._locked():
            account = self._read()
            name = fingerprint.hex()
            total = account.get(name, 0.0) + values * variance
            if total > self.bound:
                raise BudgetError(
                    f"charge: key {name} has spent {account.get(name, 0.0):.4g} of {self.bound:.4g}; {values} more values of "
                    f"variance {variance:.4g} would make it {total:.4g}; use a new key"
                )
            account[name] = total
            write_atomic(self.folder / NAME, json.dumps(account, indent=1).encode(), 0o600)
        return total

    def _read(self) -> dict[str, float]:
        path = self.folder / NAME
        if not path.exists():
            return {}
        try:
            account = json.loads(path.read_bytes())
            if not isinstance(account, dict) or not all(type(v) is float and v >= 0 for v in account.values()):
                raise TypeError("not an account")
        except (ValueError, TypeError, OSError) as cause:
            raise FormatError(
                f"ledger: {path} is damaged ({cause}); use new keys, what the old ones told is unknown"
            ) from cause
        return account

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder / ".ledger.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
