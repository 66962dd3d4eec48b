"""What a hegpu file says about itself, without any key."""

import json
from pathlib import Path

import numpy as np

from hegpu import api
from hegpu.ckks.ciphertext_files import load_ciphertext
from hegpu.ckks.params import Parameters
from hegpu.ckks.precision import precision
from hegpu.ckks.slots import decrypt
from hegpu.ckks.wire import header_of
from hegpu.errors import FormatError
from hegpu.nets.description import Network
from hegpu.nets.file import load_network, shipped_names

MAX_BYTES = 4 << 30


def describe(path: Path) -> list[tuple[str, str]]:
    """Rows (field, value) for an encrypted slice or result, a keys folder, or a network (a file or a shipped name).

    Errors: :class:`FormatError`, :class:`ModelError`.
    """
    if path.suffix == ".safetensors" or str(path) in shipped_names():
        return _network(load_network(str(path)))
    if path.is_dir():
        keys = api.load_keys(path)
        return [("kind", "keys"), ("fingerprint", api.key_fingerprint(keys)), *_parameters(keys.params)]
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise FormatError(f"info: {path} is no file of at most {MAX_BYTES >> 30} GiB; check the path")
        data = path.read_bytes()
    except OSError as cause:
        raise FormatError(f"info: cannot read {path} ({cause.strerror}); check the path") from cause
    header, tensors, _ = header_of(data)
    rows = [("kind", str(header.get("kind"))), ("bytes", f"{len(data):,}")]
    rows += [(k, json.dumps(v)) for k, v in sorted(header.items()) if k not in ("params", "kind", "format")]
    rows += [(f"array {k}", f"{v.get('dtype')} {v.get('shape')}") for k, v in sorted(tensors.items())]
    return rows + (_parameters(Parameters.from_json(header["params"])) if "params" in header else [])


def measured(path: Path, keys: Path, expected: Path | None) -> list[tuple[str, str]]:
    """Rows on a ciphertext's precision, for the holder of its secret key.

    ``expected``: a .npy with the slots' values ``[batch..., m]`` (or the same for the whole batch). Without it the
    slots are taken for real numbers, whose imaginary parts are error: half of the error is seen then.
    Errors: :class:`FormatError`, :class:`KeyMismatchError`.
    """
    client = api.open_client(keys)
    x = load_ciphertext(client.backend, path.read_bytes(), client.public.params, MAX_BYTES)
    slots = decrypt(client.backend, client.secret, x)
    if expected is None:
        report, how = precision(slots.imag, np.zeros(slots.shape)), "imaginary parts, as of real data"
    else:
        try:
            values = np.load(expected, allow_pickle=False)
            wanted = np.broadcast_to(values, (*slots.shape[:-1], values.shape[-1]))
        except (OSError, ValueError, IndexError) as cause:
            raise FormatError(f"info: {expected} does not hold values for slots {slots.shape} ({cause})") from cause
        report, how = precision(slots[..., : wanted.shape[-1]], wanted), f"against {expected.name}"
    return [
        ("level", f"{x.level} of {x.params.depth}"),
        ("remaining bits", f"{x.remaining_bits:.1f}"),
        ("noise budget", f"{x.noise_budget:.1f} bits (estimated)"),
        (f"precision, {how}", str(report)),
    ]


def _network(net: Network) -> list[tuple[str, str]]:
    rows = [
        ("kind", "network"),
        ("name", net.name),
        ("weights", f"{sum(array.size for array in net.weights.values()):,}"),
        ("weight steps", "float32" if net.fraction_bits is None else f"multiples of 2^-{net.fraction_bits}"),
        ("input planes", ", ".join(net.lifting)),
        ("unit of the result", f"{net.hu_scale:g} HU, zero at {net.hu_offset:g} HU"),
        ("border", net.border + (f", phases {net.phases[0]}x{net.phases[1]}" if net.phases else "")),
        ("returns", "the residual, the client adds the slice" if net.residual else "the slice"),
        ("range margin", f"{net.margin:g}" if net.ranges else "not calibrated"),
    ]
    for layer in net.layers:
        reach = net.ranges.get(layer.name)
        text = f"{layer.op} {layer.kernel}x{layer.kernel}, {layer.inputs} -> {layer.outputs}, {layer.activation}"
        text += f", + {layer.skip}" if layer.skip else ""
        rows.append((layer.name, text + (f", |x| <= {reach[0]:.3g}" if reach else "")))
    return rows


def _parameters(p: Parameters) -> list[tuple[str, str]]:
    return [
        ("preset", p.name),
        ("parameters hash", p.hash),
        ("ring degree n", str(p.n)),
        ("log2 Q", f"{p.log2_q:.2f} ({len(p.q_primes)} limbs)"),
        ("scale", f"{float(p.scale):.6g} per unit"),
        ("security", f"{p.security_bits} bits (2024 table)" if p.security_bits else "INSECURE, for tests only"),
    ]
