"""``python -m bench.peers.install [openfhe tenseal torch]``: each peer into an environment of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The openfhe wheel that runs on glibc 2.36 holds a CPython 3.10 extension although it is tagged py3-none-any.
PEERS: dict[str, tuple[str | None, list[str]]] = {
    "openfhe": ("3.10", ["openfhe==1.6.1.0.22.4", "numpy<2"]),
    "tenseal": (None, ["tenseal==0.3.18", "numpy"]),
    "torch": (None, ["torch==2.13.0", "numpy"]),
}


def python_of(peer: str) -> Path:
    return ROOT / ".venvs" / peer / "bin" / "python"


def interpreter(version: str | None) -> str | None:
    """A Python of that version: on the PATH, or one that pyenv has installed."""
    if version is None:
        return sys.executable
    candidates = [shutil.which(f"python{version}")]
    roots = [os.environ.get("PYENV_ROOT"), str(Path.home() / ".pyenv")]
    for root in filter(None, roots):
        candidates += [str(p) for p in Path(root, "versions").glob(f"{version}*/bin/python{version}")]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def install(peer: str) -> str | None:
    """None if the peer is there, else why not."""
    version, packages = PEERS[peer]
    python = python_of(peer)
    if not python.exists():
        base = interpreter(version)
        if base is None:
            return f"{peer} needs CPython {version}, which is not on the PATH"
        subprocess.run([base, "-m", "venv", str(python.parents[1])], check=True)
        done = subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=False)
        if done.returncode:
            shutil.rmtree(python.parents[1])
            return f"pip could not install {' '.join(packages)}"
    return None


if __name__ == "__main__":
    failures = {peer: reason for peer in sys.argv[1:] or PEERS if (reason := install(peer))}
    for name, why in failures.items():
        print(f"missing: {name}: {why}")
    raise SystemExit(1 if failures else 0)
