"""RNS-CKKS on batches of ciphertexts."""

from hegpu.ckks.ciphertext import Ciphertext, Plaintext
from hegpu.ckks.circuits import encode_matrix, evaluate_polynomial, inner_sum, matrix_vector, sum_of_rotations
from hegpu.ckks.evaluation_keys import EvaluationKeys, make_keys
from hegpu.ckks.evaluator import Evaluator
from hegpu.ckks.params import Parameters, levelled, preset
from hegpu.ckks.precision import Precision, precision
from hegpu.ckks.session import Client, client
from hegpu.ckks.vector import Vector, rotations_for

__all__ = [
    "Ciphertext",
    "Client",
    "EvaluationKeys",
    "Evaluator",
    "Parameters",
    "Plaintext",
    "Precision",
    "Vector",
    "client",
    "encode_matrix",
    "evaluate_polynomial",
    "inner_sum",
    "levelled",
    "make_keys",
    "matrix_vector",
    "precision",
    "preset",
    "rotations_for",
    "sum_of_rotations",
]
