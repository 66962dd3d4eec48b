"""Keys of random streams. The operating system's generator is the only source; nothing is cached across a fork."""

import hashlib
import os

# Domains of streams: the first nonce word, see hegpu.backend.protocol.
UNIFORM, SECRET, NOISE, MASK, FLOOD, KEY_NOISE = range(1, 7)


def fresh_key() -> bytes:
    """32 bytes from the operating system's CSPRNG."""
    return os.urandom(32)


def derive_key(key: bytes, label: str, data: bytes = b"") -> bytes:
    """A 32-byte key for one purpose: keyed BLAKE2b (RFC 7693), personalised by ``label`` (at most 16 bytes)."""
    return hashlib.blake2b(data, digest_size=32, key=key, person=label.encode()).digest()


def public_seed(label: str, *parts: bytes) -> bytes:
    """A 32-byte public seed: BLAKE2b over the parts, each preceded by its length."""
    h = hashlib.blake2b(digest_size=32, person=label.encode())
    for part in parts:
        h.update(len(part).to_bytes(8, "little") + part)
    return h.digest()
