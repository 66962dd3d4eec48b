"""TenSEAL (SEAL). Runs in its own interpreter: ``python tenseal_worker.py``."""

import tenseal as ts
import tenseal.sealapi as seal
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


def ckks(n, depth, operation, rounds, iterations):
    """SEAL itself: q = 50 + depth x 40 bits, one special prime of 60: one operation on full ciphertexts."""
    p = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    p.set_poly_modulus_degree(n)
    p.set_coeff_modulus(seal.CoeffModulus.Create(n, [50] + depth * [40] + [60]))
    context = seal.SEALContext(p, True, seal.SEC_LEVEL_TYPE.TC128)
    keygen = seal.KeyGenerator(context)
    public, relin, galois = seal.PublicKey(), seal.RelinKeys(), seal.GaloisKeys()
    keygen.create_public_key(public)
    keygen.create_relin_keys(relin)
    keygen.create_galois_keys([3], galois)  # the element of a rotation by one
    encoder, ev = seal.CKKSEncoder(context), seal.Evaluator(context)
    decryptor = seal.Decryptor(context, keygen.secret_key())
    values = [((7 * i) % 101) / 101 for i in range(n // 2)]
    others = [((5 * i) % 97) / 97 for i in range(n // 2)]
    plain, x, y, out = seal.Plaintext(), seal.Ciphertext(), seal.Ciphertext(), seal.Ciphertext()
    encryptor = seal.Encryptor(context, public)
    encoder.encode(values, 2.0**40, plain)
    encryptor.encrypt(plain, x)
    encoder.encode(others, 2.0**40, plain)
    encryptor.encrypt(plain, y)
    products = [a * b for a, b in zip(values, others, strict=True)]

    def multiply():
        ev.multiply(x, y, out)
        ev.relinearize_inplace(out, relin)
        ev.rescale_to_next_inplace(out)

    call, expected = {
        "add": (lambda: ev.add(x, y, out), [a + b for a, b in zip(values, others, strict=True)]),
        "multiply_plain": (lambda: ev.multiply_plain(x, plain, out), products),
        "multiply": (multiply, products),
        "rotate": (lambda: ev.rotate_vector(x, 1, galois, out), values[1:] + values[:1]),
    }[operation]
    call()
    decryptor.decrypt(out, plain_out := seal.Plaintext())
    errors = sorted(abs(a - b) for a, b in zip(encoder.decode_double(plain_out), expected, strict=True))
    if errors[-1] > 1e-3:
        raise ValueError(f"wrong result, error {errors[-1]}")
    return {"samples": sample(call, rounds, iterations), "check": errors[len(errors) // 2]}


if __name__ == "__main__":
    serve({"encrypt": encrypt, "ckks": ckks}, f"tenseal {ts.__version__}")
