"""``python -m bench.privacy [a b c d e] [--out FILE]``: run the attacks, keep the figures; experiments that are not named
keep what the file has of them. Ends with 1 if a claim does not hold or a control is not caught."""

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from bench.privacy.result import Experiment

ROOT = Path(__file__).parents[2]
# Beside the page, not in reports/data: the newest file there is what ``reports.render`` draws.
OUT = ROOT / "reports" / "privacy" / "figures.json"
MODULES = {"a": "a_server_view", "b": "b_extraction", "c": "c_filters", "d": "d_key_recovery", "e": "e_timing"}


def experiment(key: str) -> Callable[[], Experiment]:
    run: Callable[[], Experiment] = import_module(f"bench.privacy.{MODULES[key]}").run
    return run


def _commit() -> str:
    """With "-dirty" where anything but the page differs."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!reports")
    return (git("describe", "--always") or "unknown") + ("-dirty" if changed else "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.privacy", description=__doc__)
    parser.add_argument("experiments", nargs="*", default=[*MODULES], choices=[*MODULES], metavar="a b c d e")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    os.environ.setdefault("HEGPU_THREADS", "1")
    from hegpu.doctor import processor

    stored = json.loads(chosen.out.read_text()) if chosen.out.exists() else {}
    ok = True
    for key in dict.fromkeys(chosen.experiments):
        start = time.monotonic()
        done = experiment(key)()
        for f in done.figures:
            interval = "" if f.low is None else f" [{f.low:.4g}, {f.high:.4g}]"
            print(f"{key} {'ok ' if f.holds else 'NOT'} {f.name}: {f.value:.4g}{interval} ({f.claim})", flush=True)
        stored[key] = {
            **done.to_json(),
            "seconds": round(time.monotonic() - start, 1),
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "commit": _commit(),
            "hegpu": version("hegpu"),
            "processor": processor(),
            "python": platform.python_version(),
        }
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
        ok = ok and done.holds
    print(f"stored {chosen.out.name}; draw the page with python -m bench.privacy.render")
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
