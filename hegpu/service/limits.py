"""What one server grants, so that no client can exhaust it."""

from dataclasses import dataclass

MIB = 1 << 20
MESSAGES_PER_GROUP = 8  # ids a session may use a group of a round, on average: a client that is killed draws new ones


@dataclass(frozen=True, slots=True)
class Limits:
    """``sessions``, ``requests`` (bodies in flight) and ``key_quota`` (bytes) count per token, the others once.

    ``body_memory`` bounds the bytes of all bodies and answers held at one time; a request that does not fit is sent
    back with 429. ``body_seconds`` bound the receipt of a request's head, and with a second for every 128 KiB that of
    a body and, once more, the sending of its answer.
    """

    sessions: int = 64
    requests: int = 16
    queue: int = 64
    body_seconds: float = 60.0
    session_hours: float = 24.0
    body_memory: int = 512 * MIB
    key_bytes: int = 1024 * MIB
    key_quota: int = 4096 * MIB
