"""``python -m bench.run``: install the peers, run the suites, store the result, draw the page."""

import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

from bench.peers.install import PEERS, install

ROOT = Path(__file__).parents[1]


def main(arguments: list[str]) -> int:
    for peer in PEERS:
        if reason := install(peer):
            print(f"missing peer: {reason}")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    stamp = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H%M%S")
    target = ROOT / "reports" / "data" / f"{stamp}-{commit.stdout.strip() or 'unknown'}.json"
    partial = target.with_suffix(".partial")
    suites = [
        "bench/bench_linear.py",
        *sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "bench").glob("bench_*.py")),
    ]
    command = [
        sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-o", "python_functions=bench_*",
        "-o", "python_files=bench_*.py", f"--benchmark-json={partial}", "--benchmark-columns=median,iqr,rounds",
        *(arguments or dict.fromkeys(suites)),
    ]  # fmt: skip
    code = subprocess.run(command, check=False, cwd=ROOT).returncode
    if partial.exists() and partial.stat().st_size:
        partial.rename(target)
        print(f"stored {target.relative_to(ROOT)}")
        return subprocess.run([sys.executable, "-m", "reports.render"], check=False, cwd=ROOT).returncode or code
    return code or 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
