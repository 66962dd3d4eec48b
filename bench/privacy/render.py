"""``python -m bench.privacy.render [FILE]``: the stored figures as reports/privacy.md and its pictures."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from bench.privacy.__main__ import OUT, ROOT
from bench.privacy.texts import INTRODUCTION, METHOD, READING


def number(value: float) -> str:
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4f}" if 0.01 <= abs(value) < 1000 else f"{value:.2e}"


def table(figures: list[dict[str, Any]]) -> str:
    lines = ["| figure | value | interval or range | claim | |", "|---|---|---|---|---|"]
    for f in figures:
        interval = "" if f["low"] is None else f"{number(f['low'])} to {number(f['high'])}"
        name = f["name"].replace("|", "\\|")
        verdict = ("reported" if f["claim"].startswith("reported") else "holds") if f["holds"] else "**DOES NOT HOLD**"
        lines.append(f"| {name} | {number(f['value'])} | {interval} | {f['claim']} | {verdict} |")
    return "\n".join(lines)


def advantage(curve: dict[str, list[float]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    x = [max(v, 0) for v in curve["x"]]  # the server without flooding is drawn at 0
    below = [y - low for y, low in zip(curve["y"], curve["low"], strict=True)]
    above = [high - y for y, high in zip(curve["y"], curve["high"], strict=True)]
    axes.errorbar(x, curve["y"], yerr=[below, above], fmt="o", capsize=3, label="measured, 99.95 % intervals")
    axes.plot(x, curve["predicted"], label="predicted")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlabel("bits of flooding (0: none)")
    axes.set_ylabel("advantage of the client")
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def recovery(curve: dict[str, list[float]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.semilogx(curve["x"], curve["y"], "o", label="measured (insecure preset, one key for many slices)")
    axes.semilogx(curve["x"], curve["predicted"], label="predicted")
    axes.axhline(1 / 3, color="black", linewidth=0.8, linestyle=":", label="a guess")
    axes.set_xlabel("leak in units of the bound")
    axes.set_ylabel("share of the secret's trits right")
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


PICTURES = {"advantage": advantage, "recovery": recovery}


def section(key: str, e: dict[str, Any]) -> str:
    figures = e["figures"]
    failed = [f["name"] for f in figures if not f["holds"]]
    parts = [f"## ({key}) {e['title']}", METHOD[key], "Attacks:", table([f for f in figures if not f["control"]])]
    parts += ["Controls, and attacks that must succeed:", table([f for f in figures if f["control"]])]
    parts += [f"![{name}](privacy/{name}.png)" for name in e["curves"]]
    parts.append(READING[key])
    if failed:
        parts.append("*Conclusion.* **Not all claims hold:** " + "; ".join(failed) + ".")
    else:
        parts.append("*Conclusion.* Every claim holds in this run and every control was caught.")
    facts = ", ".join(f"{name}: {_plain(value)}" for name, value in e["facts"].items())
    parts.append(
        f"<sub>{facts}. {e['date']}, commit {e['commit']}, {e['processor']}, Python {e['python']}, "
        f"{e['seconds']} s.</sub>"
    )
    return "\n\n".join(parts)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {_plain(v)}" for k, v in value.items()) + ")"
    if isinstance(value, list):
        return "[" + " ".join(_plain(v) for v in value) + "]"
    return number(value) if isinstance(value, (int, float)) else str(value)


def render(source: Path, folder: Path) -> None:
    stored = json.loads(source.read_text())
    pictures = folder / "privacy"
    pictures.mkdir(parents=True, exist_ok=True)
    for e in stored.values():
        for name, curve in e["curves"].items():
            PICTURES[name](curve, pictures / f"{name}.png")
    parts = [INTRODUCTION, *(section(key, stored[key]) for key in sorted(stored))]
    (folder / "privacy.md").write_text("\n\n".join(part.strip() for part in parts) + "\n")


if __name__ == "__main__":
    render(Path(sys.argv[1]) if sys.argv[1:] else OUT, ROOT / "reports")
