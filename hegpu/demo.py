"""The demo: one slice, low dose, denoised in the clear and encrypted, compared."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console

from hegpu import api
from hegpu.backend.protocol import Backend
from hegpu.ckks.wire import Body
from hegpu.ct.dicom import example_slice_path, read_slice
from hegpu.ct.dose import lower_dose
from hegpu.ct.hounsfield import WINDOWS, clip
from hegpu.ct.metrics import compare
from hegpu.ct.npz import read_npz
from hegpu.files import write_atomic
from hegpu.nets.compose import affine_filter
from hegpu.nets.plaintext import run as run_plaintext
from hegpu.protocols.client_relu.client import denoise as denoise_interactively
from hegpu.protocols.client_relu.plan import plan_network
from hegpu.protocols.client_relu.server import Prepared
from hegpu.protocols.client_relu.server import answer as answer_group
from hegpu.protocols.client_relu.server import prepare as prepare_round
from hegpu.protocols.messages import dump_result, dump_slice, load_result, load_slice

F64 = npt.NDArray[np.float64]
RELU_MODEL = "redcnn-16"
ASSUMED_SPACING_MM = 0.75  # for files that state none


@dataclass(frozen=True)
class DemoResult:
    network: str
    original: F64
    low_dose: F64
    clear: F64
    encrypted: F64
    seconds: dict[str, float]
    bytes_up: int
    bytes_down: int

    @property
    def difference(self) -> F64:
        return self.encrypted - self.clear

    def tables(self) -> list[tuple[str, list[str], Sequence[tuple[str, ...]]]]:
        rows = []
        for name, image in (
            ("low dose", self.low_dose),
            ("denoised in the clear", self.clear),
            ("denoised encrypted", self.encrypted),
        ):
            narrow, full = (
                compare(image, self.original, WINDOWS["abdomen"]),
                compare(image, self.original, WINDOWS["full"]),
            )
            rows.append(
                (name, f"{narrow.psnr_db:.2f}", f"{narrow.ssim:.4f}", f"{narrow.rmse_hu:.2f}", f"{full.psnr_db:.2f}",
                 f"{full.ssim:.4f}", f"{full.rmse_hu:.2f}")
            )  # fmt: skip
        convention = compare(self.clear, self.original).convention
        pixels = self.original.size
        d = self.difference
        cost = [
            ("difference rms", f"{np.sqrt(np.mean(d**2)):.3g} HU"),
            ("difference largest", f"{np.abs(d).max():.3g} HU"),
            ("bytes up / pixel", f"{self.bytes_up / pixels:.2f}"),
            ("bytes down / pixel", f"{self.bytes_down / pixels:.2f}"),
            *((f"seconds: {k}", f"{v:.3f}") for k, v in self.seconds.items()),
        ]
        fidelity = [
            "image", "PSNR dB [-160,240]", "SSIM", "RMSE HU", "PSNR dB [-1024,3071]", "SSIM", "RMSE HU",
        ]  # fmt: skip
        return [
            (f"{self.network} against the original slice ({convention}; then the full range)", fidelity, rows),
            (f"{self.network}: encrypted against the same network in the clear", ["figure", "value"], cost),
        ]


def run(
    image: Path | None, out: Path, dose: float, model: str, backend: Backend, console: Console
) -> tuple[DemoResult, DemoResult]:
    """A linear network over real files in ``out`` (keys, slice.ct, denoised.ct) and ``demo.png``; then the ReLU network
    ``redcnn-16``, interactively, client and server in this process."""
    if image is not None and image.suffix == ".npz":
        hu, spacing = read_npz(image), ASSUMED_SPACING_MM
    else:
        source = read_slice(image or example_slice_path())
        hu, spacing = source.hu, source.pixel_spacing_mm or ASSUMED_SPACING_MM
    hu, clipped = clip(hu)
    if clipped:
        console.print(f"{clipped} pixels were clipped to [-1024, 3071] HU")
    with console.status("lowering the dose"):
        low = clip(np.rint(lower_dose(hu, spacing, dose, seed=1)))[0]
    first = _linear(hu, low, out, model, backend, dose)
    with console.status(f"{RELU_MODEL}: a round for each layer"):
        second = _relu(hu, low, backend)
    return first, second


class _Clock(dict[str, float]):
    """Seconds by name of what ran in a ``with`` block."""

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self[name] = self.get(name, 0.0) + time.perf_counter() - start


def _linear(hu: F64, low: F64, out: Path, model: str, backend: Backend, dose: float) -> DemoResult:
    clock, network = _Clock(), api.load_model(model)
    with clock.measure("key generation"):
        keys = api.keygen()
    with clock.measure("encrypt (client)"):
        halo = max(1, affine_filter(network).radius)
        sent = dump_slice(backend, api.encrypt(low, keys, halo=halo, backend=backend))
    with clock.measure("denoise (server, no secret key)"):
        answer = dump_result(backend, api.denoise(load_slice(backend, sent), network, backend=backend))
    with clock.measure("decrypt (client)"):
        encrypted = api.decrypt(load_result(backend, answer), keys, backend=backend)
    with clock.measure("the same network in the clear (NumPy float64)"):
        clear = run_plaintext(network, low)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "slice.ct", sent)
    write_atomic(out / "denoised.ct", answer)
    result = DemoResult(network.name, hu, low, clear, encrypted, clock, len(sent), len(answer))
    picture(result, load_slice(backend, sent).c0, out / "demo.png", dose)
    return result


def _relu(hu: F64, low: F64, backend: Backend) -> DemoResult:
    clock, network, nonce = _Clock(), api.load_model(RELU_MODEL), os.urandom(16)
    sizes = [0, 0]
    prepared: dict[int, Prepared] = {}
    lock = threading.Lock()

    def exchange(index: int, group: int, message_id: str, body: Body) -> Body:
        with lock, clock.measure("server, no secret key (while the client works on other tiles)"):
            if index not in prepared:
                prepared.clear()
                prepared[index] = prepare_round(backend, network, plan, index)
            answer = answer_group(backend, prepared[index], group, nonce, body)
            sizes[0] += len(body)
            sizes[1] += len(answer)
        return answer

    with clock.measure("plan (server, once a network)"):
        plan = plan_network(network, "lossless", (low.shape[0], low.shape[1]))
    with clock.measure("both sides together"):
        encrypted, _ = denoise_interactively(backend, plan, low, exchange, nonce=nonce)
    with clock.measure("the same network in the clear (NumPy float64)"):
        clear = run_plaintext(network, low)
    return DemoResult(f"{network.name} (client-relu, lossless)", hu, low, clear, encrypted, clock, sizes[0], sizes[1])


def picture(r: DemoResult, ciphertext: npt.NDArray[np.uint32], path: Path, dose: float) -> None:
    """Six panels; the ciphertext as the server sees it, residues of the first limb laid out as the image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    low, high = WINDOWS["abdomen"]
    figure = Figure(figsize=(12, 8.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    residues = ciphertext[:, 0].ravel()
    seen = np.resize(residues, r.original.shape)
    d = r.difference * 1000
    limit = max(float(np.abs(d).max()), 1e-9)
    panels = (
        ("original", r.original, low, high, "gray", "HU"),
        (f"low dose ({dose:.0%})", r.low_dose, low, high, "gray", "HU"),
        ("ciphertext, as the server sees it", seen, 0, float(residues.max()), "gray", "residue mod q0"),
        ("denoised in the clear", r.clear, low, high, "gray", "HU"),
        ("denoised encrypted", r.encrypted, low, high, "gray", "HU"),
        ("difference of the two", d, -limit, limit, "RdBu", "thousandths of a HU"),
    )
    for axis, (title, image, vmin, vmax, colours, unit) in zip(axes.flat, panels, strict=True):
        shown = axis.imshow(image, vmin=vmin, vmax=vmax, cmap=colours, interpolation="nearest")
        axis.set_title(title)
        axis.axis("off")
        figure.colorbar(shown, ax=axis, shrink=0.8, label=unit)
    figure.suptitle(f"hegpu demo: window [{low}, {high}] HU. Research software, not a medical device.")
    figure.savefig(path, dpi=110)
