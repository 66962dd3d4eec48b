"""What this machine offers to hegpu, what is missing and how to get it."""

import importlib
import importlib.metadata
import importlib.util
import platform
import shutil
from pathlib import Path


def report() -> list[tuple[str, str, str]]:
    """Rows (item, state, how to get it); the last column is empty where nothing is missing."""
    rows = [("python", platform.python_version(), ""), ("processor", processor(), "")]
    try:
        from hegpu.backend.cpu import default_threads, simd_levels

        rows.append(("backend cpu", "instruction sets " + ", ".join(simd_levels()), ""))
        rows.append(("threads", str(default_threads()), ""))
    except ImportError as cause:
        rows.append(("backend cpu", f"missing: {cause}", "make setup (needs a C++20 compiler)"))
    rows.append(("backend reference", "ready (NumPy, slow, the specification)", ""))
    rows.append(_gpu())
    for package, purpose, install in (
        ("torch", "training, networks in the clear", "pip install 'hegpu[train]'"),
        ("nibabel", "NIfTI files", "pip install 'hegpu[nifti]'"),
        ("pytest_benchmark", "benchmarks", "pip install 'hegpu[bench]'"),
        ("seaborn", "report", "pip install 'hegpu[report]'"),
    ):
        found = importlib.util.find_spec(package) is not None
        rows.append((package, f"{'ready' if found else 'missing'} ({purpose})", "" if found else install))
    for peer in ("openfhe", "tenseal", "torch"):
        found = (Path(".venvs") / peer).is_dir()
        state = "installed in .venvs" if found else "missing (only needed by make bench)"
        rows.append((f"benchmark peer {peer}", state, "" if found else f"python -m bench.peers.install {peer}"))
    return rows


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpu() -> tuple[str, str, str]:
    if importlib.util.find_spec("cupy") is None:
        gpu = "an NVIDIA driver is here" if shutil.which("nvidia-smi") else "no NVIDIA driver found"
        return ("backend cuda", f"missing: CuPy is not installed, {gpu}; this version has no CUDA kernels yet", "")
    version = importlib.metadata.version
    names = [d for d in ("cupy-cuda13x", "cupy-cuda12x", "cupy") if _installed(d)]
    return ("backend cuda", f"{names[0]} {version(names[0])} found; this version has no CUDA kernels yet", "")


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
