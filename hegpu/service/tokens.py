"""Who may call. The server keeps a digest of each token, so its file opens nothing.

A line of the file: ``name sha256-of-token [may-hold-the-model]``; empty lines and lines that begin with # are skipped.
A token has 256 random bits, so a plain hash of it can not be searched.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from hegpu.errors import FormatError, ParameterError
from hegpu.files import write_atomic

MAY_HOLD = "may-hold-the-model"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Caller:
    """``name`` is what logs and quotas call the token's holder."""

    name: str
    may_hold_the_model: bool = False


class Tokens:
    def __init__(self, callers: dict[bytes, Caller]) -> None:
        self._callers = callers

    @classmethod
    def read(cls, path: Path) -> "Tokens":
        """Errors: :class:`FormatError` that names the line."""
        callers: dict[bytes, Caller] = {}
        for number, line in enumerate(_text(path).splitlines(), 1):
            words = line.split()
            if not words or line.startswith("#"):
                continue
            good = len(words) in (2, 3) and NAME.fullmatch(words[0]) and _DIGEST.fullmatch(words[1])
            if not good or words[2:] not in ([], [MAY_HOLD]):
                raise FormatError(
                    f"read tokens: line {number} of {path} is not 'name sha256-of-token [{MAY_HOLD}]'; "
                    "make lines with 'hegpu token'"
                )
            callers[bytes.fromhex(words[1])] = Caller(words[0], len(words) == 3)
        if len({caller.name for caller in callers.values()}) != len(callers):
            raise FormatError(f"read tokens: a name occurs twice in {path}; give each token a name of its own")
        if not callers:
            raise FormatError(f"read tokens: {path} holds no token, nobody could call; make one with 'hegpu token'")
        return cls(callers)

    def find(self, token: str) -> Caller | None:
        """Compares with every digest, each in constant time, so that the time tells nothing."""
        given = hashlib.sha256(token.encode()).digest()
        found = None
        for digest, caller in self._callers.items():
            if hmac.compare_digest(digest, given):
                found = caller
        return found


def make_token(name: str, path: Path, may_hold_the_model: bool) -> str:
    """A new token; its digest is appended to the file (0600). Errors: :class:`ParameterError` for a name in use."""
    if not NAME.fullmatch(name):
        raise ParameterError(
            f"token: the name {name!r:.80} is not made of 1 to 64 letters, digits and '_.-'; choose another"
        )
    text = _text(path) if path.exists() else ""
    if any(line.split()[:1] == [name] for line in text.splitlines()):
        raise ParameterError(f"token: {path} already has a token {name!r}; remove its line or choose another name")
    token = secrets.token_urlsafe(32)
    line = f"{name} {hashlib.sha256(token.encode()).hexdigest()}{' ' + MAY_HOLD if may_hold_the_model else ''}\n"
    write_atomic(path, (text + ("\n" if text and not text.endswith("\n") else "") + line).encode(), 0o600)
    return token


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as cause:
        raise FormatError(f"read tokens: cannot read {path} ({cause}); check the path") from cause
