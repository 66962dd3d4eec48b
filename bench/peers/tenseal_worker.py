"""TenSEAL (SEAL). Runs in its own interpreter: ``python tenseal_worker.py``."""

import tenseal as ts
from protocol import sample, serve


def encrypt(rounds, iterations):
    """n = 2^13, q = 50 + 2 x 40 bits, 4096 slots, symmetric; TenSEAL encodes within the same call."""
    context = ts.context(
        ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[50, 40, 40, 60], encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
        n_threads=1,
    )  # fmt: skip
    context.global_scale = 2.0**40
    plain = ts.plain_tensor([i / 4096 for i in range(4096)], [4096])

    def call():
        return ts.ckks_vector(context, plain)

    error = max(abs(v - i / 4096) for i, v in enumerate(call().decrypt()))
    if error > 1e-4:
        raise ValueError(f"wrong result, error {error}")
    return {"samples": sample(call, rounds, iterations), "check": error}


if __name__ == "__main__":
    serve({"encrypt": encrypt}, f"tenseal {ts.__version__}")
