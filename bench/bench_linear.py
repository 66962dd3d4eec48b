"""A whole 512 x 512 slice through the ``linear`` protocol, files included, 2 threads."""

import resource

import numpy as np

from hegpu import api
from hegpu.backend.cpu import CpuBackend
from hegpu.ct.phantom import phantom
from hegpu.nets.plaintext import run
from hegpu.protocols.messages import dump_result, dump_slice, load_result, load_slice


def bench_linear_end_to_end(benchmark) -> None:
    benchmark.group = "linear protocol, 512x512, 2 threads"
    b, keys, net = CpuBackend(threads=2), api.keygen(), api.load_model("linear")
    hu = phantom((512, 512), seed=0) + np.rint(np.random.default_rng(0).normal(0, 40, (512, 512)))
    hu = np.clip(hu, -1024, 3071)
    sizes = {}

    def denoise() -> np.ndarray:
        sent = dump_slice(b, api.encrypt(hu, keys, backend=b))
        answer = dump_result(b, api.denoise(load_slice(b, sent), net, backend=b))
        sizes.update(up=len(sent) / hu.size, down=len(answer) / hu.size)
        return api.decrypt(load_result(b, answer), keys, backend=b)

    difference = denoise() - run(net, hu)
    rms, largest = float(np.sqrt(np.mean(difference**2))), float(np.abs(difference).max())
    assert rms <= 0.002
    assert largest <= 0.02
    benchmark.pedantic(denoise, rounds=15, warmup_rounds=1)
    benchmark.extra_info.update(
        system="hegpu cpu", per=1, unit="slice", threads=2, rms_hu=rms, largest_hu=largest,
        bytes_up_per_pixel=sizes["up"], bytes_down_per_pixel=sizes["down"],
        peak_mib_of_the_process=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        note="encrypt, server, decrypt, messages packed and parsed; key generation apart",
    )  # fmt: skip
