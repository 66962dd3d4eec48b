"""What a hegpu file says about itself, without any key."""

import json
from pathlib import Path

from hegpu import api
from hegpu.ckks.params import Parameters
from hegpu.ckks.wire import header_of
from hegpu.errors import FormatError


def describe(path: Path) -> list[tuple[str, str]]:
    """Rows (field, value) for an encrypted slice or result, or a keys folder. Errors: :class:`FormatError`."""
    if path.is_dir():
        keys = api.load_keys(path)
        return [("kind", "keys"), ("fingerprint", api.key_fingerprint(keys)), *_parameters(keys.params)]
    try:
        data = path.read_bytes()
    except OSError as cause:
        raise FormatError(f"info: cannot read {path} ({cause.strerror}); check the path") from cause
    header, tensors, _ = header_of(data)
    rows = [("kind", str(header.get("kind"))), ("bytes", f"{len(data):,}")]
    rows += [(k, json.dumps(v)) for k, v in sorted(header.items()) if k not in ("params", "kind", "format")]
    rows += [(f"array {k}", f"{v.get('dtype')} {v.get('shape')}") for k, v in sorted(tensors.items())]
    return rows + (_parameters(Parameters.from_json(header["params"])) if "params" in header else [])


def _parameters(p: Parameters) -> list[tuple[str, str]]:
    return [
        ("preset", p.name),
        ("parameters hash", p.hash),
        ("ring degree n", str(p.n)),
        ("log2 Q", f"{p.log2_q:.2f} ({len(p.q_primes)} limbs)"),
        ("scale", f"{float(p.scale):.6g} per unit"),
        ("security", f"{p.security_bits} bits (2024 table)" if p.security_bits else "INSECURE, for tests only"),
    ]
