"""The server of ``client-relu``: a function of (model, layer, ciphertexts). It holds no key and keeps no state."""

from dataclasses import dataclass

import numpy as np

from hegpu.backend.protocol import U32, Backend, Points
from hegpu.ckks.wire import Body, pack_residues
from hegpu.errors import ModelError
from hegpu.nets.description import Network
from hegpu.nets.outline import outline
from hegpu.protocols.client_relu.messages import dump_answer, load_request
from hegpu.protocols.client_relu.plan import Plan
from hegpu.protocols.client_relu.weights import constants, integers
from hegpu.ring.random import UNIFORM
from hegpu.tensor.convolution import transform_weights

_NO_CONSTANTS = np.empty((0, 0), np.uint32)


@dataclass
class Prepared:
    """A round's weights in the point layout (302 MB for 96 to 96 channels): made once a round."""

    plan: Plan
    index: int
    weights: Points
    constants: U32


def prepare(backend: Backend, net: Network, plan: Plan, index: int) -> Prepared:
    """Transform the weights of round ``index`` of ``plan``. Errors: :class:`ModelError` for another network's plan."""
    if outline(net) != plan.outline:
        raise ModelError(f"client-relu: the plan is not one of network {net.name!r}; make a new plan")
    r, q = plan.rounds[index], plan.params.q_primes
    weights = transform_weights(backend, integers(net, index, r.weight_bits), r.tiling, q)
    return Prepared(plan, index, weights, constants(net, index, r.in_scale, r.weight_bits, plan.params))


def answer(backend: Backend, prepared: Prepared, group: int, nonce: bytes, body: Body) -> memoryview:
    """The answer to one group of tiles: the same bytes for the same bytes.

    Errors: :class:`~hegpu.errors.FormatError` for a body that is damaged or of another session, round or group.
    """
    plan, r, q = prepared.plan, prepared.plan.rounds[prepared.index], prepared.plan.params.q_primes
    seed, packed = load_request(plan, nonce, r.index, group, body)
    objects, tiles = r.objects(group), packed.shape[1]
    x = backend.empty_points(r.inputs, 2 * tiles, plan.params.n, q)
    backend.store_packed(x, packed, 0, 2, plan.params.c0_drop_up)
    backend.expand_points(x, seed, UNIFORM, objects, 1, 2)
    y = backend.point_matmul(prepared.weights, x)
    del x
    if r.bits:
        c0 = backend.load_packed(y, 0, 2, tiles, r.c0_form, prepared.constants)
        c1 = backend.load_packed(y, 1, 2, tiles, r.c1_form, _NO_CONSTANTS)
    else:
        first = backend.load_points(y, 0, 2, tiles, transform=True)
        bias = np.broadcast_to(prepared.constants[:, None, :, None], first.shape)
        c0 = pack_residues(backend, backend.add(first, bias, q), q)
        c1 = pack_residues(backend, backend.load_points(y, 1, 2, tiles, transform=True), q)
    return dump_answer(plan, nonce, r.index, group, c0, c1)
