"""The 96-channel RED-CNN on a 512x512 slice by `client-relu`, beside torch float32 on the plain one, 2 threads each.

``server``: everything the server does, weights included, while the client waits. ``both sides``: client and server in one
process, one group after the other, no transport. The result is compared with torch in float64 on the window's pixels.
"""

import time

import numpy as np
import pytest

from hegpu.backend.cpu import CpuBackend
from hegpu.ct.phantom import phantom
from hegpu.nets.file import load_network
from hegpu.protocols.client_relu import client
from hegpu.protocols.client_relu.plan import plan_network
from hegpu.protocols.client_relu.server import Prepared, answer, prepare

ABOUT = {"per": 1, "unit": "slice", "threads": 2}
NONCE = bytes(16)


def slice_hu() -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 25, (512, 512))
    return np.rint(np.clip(phantom((512, 512), seed=3) + noise, -1024, 3071))


@pytest.mark.parametrize("preset", ["compact", "lossless"])
def bench_client_relu(benchmark, monkeypatch, preset: str) -> None:
    benchmark.group = "96-channel RED-CNN, 512x512, both sides"
    monkeypatch.setattr(client, "IN_FLIGHT", 1)  # nothing overlaps, so that the server's time is its own
    backend, net, hu = CpuBackend(threads=2), load_network("redcnn-96"), slice_hu()
    plan = plan_network(net, preset, hu.shape)
    seconds, sizes = [], [0, 0]
    prepared: list[Prepared] = []

    def exchange(index: int, group: int, message_id: str, body: bytes) -> bytes:
        start = time.perf_counter()
        if not prepared or prepared[0].index != index:
            prepared.clear()  # before, so that its memory is used again
            prepared.append(prepare(backend, net, plan, index))
        result = answer(backend, prepared[0], group, NONCE, body)
        seconds[-1] += time.perf_counter() - start
        sizes[0] += len(body)
        sizes[1] += len(result)
        return result

    def run() -> np.ndarray:
        seconds.append(0.0)
        sizes[:] = [0, 0]
        return client.denoise(backend, plan, hu, exchange, nonce=NONCE)[0]

    got = run()
    from hegpu.nets.torch_net import run_torch, torch

    exact = run_torch(net, hu, dtype=torch.float64)
    rms, float32_rms = (float(np.sqrt(np.mean((x - exact) ** 2))) for x in (got, run_torch(net, hu)))
    assert rms < (0.1 if preset == "compact" else float32_rms)
    if preset == "lossless":  # whole HU are those of the float64 network wherever the theorem can tell
        clear = np.abs(exact - np.floor(exact) - 0.5) > 8 * plan.error_hu
        assert clear.mean() > 0.999 and np.array_equal(np.rint(got)[clear], np.rint(exact)[clear])
    benchmark.pedantic(run, rounds=3)
    values = sum(r.planes * r.tiling.height * r.tiling.width for r in plan.rounds)
    benchmark.extra_info.update(
        system=f"hegpu cpu {preset}", server_seconds=float(np.median(seconds[1:])), rms_hu=rms, float32_rms_hu=float32_rms,
        bytes_up_per_value=sizes[0] / values, bytes_down_per_value=sizes[1] / values,
        note="no transport, no overlap; weights transformed in every round", **ABOUT,
    )  # fmt: skip


def bench_torch(benchmark) -> None:
    benchmark.group = "96-channel RED-CNN, 512x512, both sides"
    from hegpu.nets.torch_net import run_torch, torch

    net, hu = load_network("redcnn-96"), slice_hu()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    benchmark.pedantic(lambda: run_torch(net, hu), rounds=3, warmup_rounds=1)
    torch.set_num_threads(threads)
    benchmark.extra_info.update(system="torch float32, plain", **ABOUT)
