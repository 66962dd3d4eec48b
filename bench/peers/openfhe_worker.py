"""OpenFHE (openfhe-python). Runs in its own interpreter: ``python openfhe_worker.py``."""

import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"

import openfhe as fhe
from protocol import sample, serve


def context(n, depth, bits, first=None, keys=()):
    p = fhe.CCParamsCKKSRNS()
    p.SetRingDim(n)
    p.SetMultiplicativeDepth(depth)
    p.SetScalingModSize(bits)
    p.SetFirstModSize(first or min(60, bits + 10))
    p.SetScalingTechnique(fhe.ScalingTechnique.FIXEDMANUAL)
    p.SetSecurityLevel(fhe.SecurityLevel.HEStd_NotSet)
    p.SetBatchSize(n // 2)
    cc = fhe.GenCryptoContext(p)
    for feature in (fhe.PKESchemeFeature.PKE, fhe.PKESchemeFeature.KEYSWITCH, fhe.PKESchemeFeature.LEVELEDSHE):
        cc.Enable(feature)
    pair = cc.KeyGen()
    if keys:
        cc.EvalRotateKeyGen(pair.secretKey, list(keys))
    return cc, pair


def decrypted(cc, pair, ct, length):
    plain = cc.Decrypt(ct, pair.secretKey)
    plain.SetLength(length)
    return [v.real for v in plain.GetCKKSPackedValue()]


def ntt(n, bits, rounds, iterations):
    """Not exposed: a rescale of L limbs does 2 L transforms and two pointwise passes a limb and polynomial; the
    passes are subtracted at the price of a ciphertext-plaintext product (one pass each)."""
    depth = 7
    cc, pair = context(n, depth, bits)
    values = [0.5] * (n // 2)
    plain = cc.MakeCKKSPackedPlaintext(values)
    ct = cc.Encrypt(pair.publicKey, plain)
    product = cc.EvalMult(ct, plain)
    error = max(abs(v - 0.25) for v in decrypted(cc, pair, cc.Rescale(product), 64))
    if error > 1e-4:
        raise ValueError(f"wrong result, error {error}")
    limbs = depth + 1
    passes = sample(lambda: cc.EvalMult(ct, plain), rounds, iterations)
    rescale = sample(lambda: cc.Rescale(product), rounds, iterations)
    return {"samples": [(r - 2 * p) / (2 * limbs) for r, p in zip(rescale, passes, strict=True)], "check": error}


def encrypt(rounds, iterations):
    """n = 2^13, q = 50 + 2 x 40 bits, 4096 slots, public key (the binding exposes no symmetric encryption)."""
    cc, pair = context(8192, 2, 40, 50)
    values = [i / 4096 for i in range(4096)]

    def call():
        return cc.Encrypt(pair.publicKey, cc.MakeCKKSPackedPlaintext(values))

    error = max(abs(a - b) for a, b in zip(decrypted(cc, pair, call(), 4096), values, strict=True))
    if error > 1e-4:
        raise ValueError(f"wrong result, error {error}")
    plain = cc.MakeCKKSPackedPlaintext(values)
    return {"samples": sample(lambda: cc.Encrypt(pair.publicKey, plain), rounds, iterations), "check": error}


def conv5x5(rounds, iterations):
    """A 64 x 64 plane in the 4096 slots, n = 2^13: 24 hoisted rotations, 25 products with masks, 24 additions."""
    steps = [64 * dy + dx for dy in range(-2, 3) for dx in range(-2, 3)]
    cc, pair = context(8192, 2, 40, 50, [s for s in steps if s])
    image = [((7 * i) % 101) / 101 for i in range(4096)]
    weights = [(i - 12) / 50 for i in range(25)]
    masks = [cc.MakeCKKSPackedPlaintext([w] * 4096) for w in weights]
    ct = cc.Encrypt(pair.publicKey, cc.MakeCKKSPackedPlaintext(image))

    def call():
        digits = cc.EvalFastRotationPrecompute(ct)
        total = None
        for step, mask in zip(steps, masks, strict=True):
            turned = cc.EvalFastRotation(ct, step, 16384, digits) if step else ct
            term = cc.EvalMult(turned, mask)
            total = term if total is None else cc.EvalAdd(total, term)
        return total

    got = decrypted(cc, pair, call(), 4096)
    error = 0.0
    for y in range(2, 62):
        for x in range(2, 62):
            at = 64 * y + x
            error = max(error, abs(got[at] - sum(w * image[at + s] for w, s in zip(weights, steps, strict=True))))
    if error > 1e-3:
        raise ValueError(f"wrong result, error {error}")
    return {"samples": sample(call, rounds, iterations), "check": error}


def ckks(n, depth, operation, rounds, iterations):
    """q = 50 + depth x 40 bits, special primes of 60: one operation on full ciphertexts, everything in NTT form."""
    steps = list(range(1, 25))
    cc, pair = context(n, depth, 40, 50, steps if operation in ("rotate", "hoisted") else ())
    if operation == "multiply":
        cc.EvalMultKeyGen(pair.secretKey)
    values = [((7 * i) % 101) / 101 for i in range(n // 2)]
    others = [((5 * i) % 97) / 97 for i in range(n // 2)]
    x = cc.Encrypt(pair.publicKey, cc.MakeCKKSPackedPlaintext(values))
    plain = cc.MakeCKKSPackedPlaintext(others)
    y = cc.Encrypt(pair.publicKey, plain)
    products = [a * b for a, b in zip(values, others, strict=True)]

    def hoisted():
        digits = cc.EvalFastRotationPrecompute(x)
        return [cc.EvalFastRotation(x, step, 2 * n, digits) for step in steps]

    call, expected = {
        "add": (lambda: cc.EvalAdd(x, y), [a + b for a, b in zip(values, others, strict=True)]),
        "multiply_plain": (lambda: cc.EvalMult(x, plain), products),
        "multiply": (lambda: cc.Rescale(cc.EvalMult(x, y)), products),
        "rotate": (lambda: cc.EvalRotate(x, 1), values[1:] + values[:1]),
        "hoisted": (hoisted, values[24:] + values[:24]),
    }[operation]
    result = call()
    got = decrypted(cc, pair, result[-1] if operation == "hoisted" else result, n // 2)
    errors = sorted(abs(a - b) for a, b in zip(got, expected, strict=True))
    if errors[-1] > 1e-3:
        raise ValueError(f"wrong result, error {errors[-1]}")
    samples = sample(call, rounds, iterations)
    if operation == "hoisted":
        samples = [s / len(steps) for s in samples]
    return {"samples": samples, "check": errors[len(errors) // 2]}


if __name__ == "__main__":
    sys.setrecursionlimit(10000)
    serve({"ntt": ntt, "encrypt": encrypt, "conv5x5": conv5x5, "ckks": ckks}, "openfhe 1.6.1.0.22.4")
