"""Every Python block of the pages on CKKS runs as printed; the blocks of a page share their names, and print what their comments say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "ckks.md", DOCS / "coming-from.md", *sorted((DOCS / "examples").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_pages_run_as_printed(page: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    assert blocks
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    promised = re.findall(r"print\(.*\)  # (\[[^\]]*\])", "\n".join(blocks))
    printed = [_numbers(line) for line in re.findall(r"^\[[^\]]*\]", done.stdout, re.M)]
    for text in promised:
        assert any(_close(_numbers(text), line) for line in printed), f"{text} was not printed"


def _numbers(text: str) -> list[float]:
    return [float(v) for v in re.findall(r"-?[\d.]+(?:e-?\d+)?", text)]


def _close(x: list[float], y: list[float]) -> bool:
    return len(x) == len(y) and all(abs(a - b) < 1e-3 for a, b in zip(x, y, strict=True))
