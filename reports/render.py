"""``python -m reports.render [file]``: the newest result in reports/data as index.html and ratios.png."""

import base64
import html
import io
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

HERE = Path(__file__).parent
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1150px;margin:2em auto;padding:0 1em}img{max-width:100%}
table{border-collapse:collapse;font-size:13px}td,th{padding:.3em .7em;border-bottom:1px solid #ccc;text-align:left}
td.n,th.n{text-align:right;white-space:nowrap}"""


def newest(folder: Path) -> Path:
    """The last result file; their names begin with the time."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise SystemExit(f"no results in {folder.name}/: run python -m bench.run first")
    return files[-1]


def rows(result: dict[str, Any]) -> pd.DataFrame:
    """One row a benchmark; times in seconds per ``unit`` of work."""
    table = []
    for b in result["benchmarks"]:
        stats, extra = b["stats"], b["extra_info"]
        per = extra.get("per", 1)
        table.append(
            {
                "group": b["group"] or b["name"],
                "system": extra.get("system", b["name"]),
                "unit": extra.get("unit", "call"),
                "median": stats["median"] / per,
                "q1": stats["q1"] / per,
                "q3": stats["q3"] / per,
                "rounds": stats["rounds"],
                "note": extra.get("note", ""),
            }
        )
    return pd.DataFrame(table, columns=["group", "system", "unit", "median", "q1", "q3", "rounds", "note"])


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Peer's median over hegpu's in each group: above 1 hegpu is faster. ``low``..``high`` from the quartiles of both."""
    out = []
    ours = table[table["system"].str.startswith("hegpu")]
    peers = table[~table["system"].str.startswith("hegpu")]
    for h in ours.itertuples():
        for p in peers[peers["group"] == h.group].itertuples():
            if p.unit != h.unit:
                raise ValueError(f"{h.group}: hegpu counts in {h.unit}, {p.system} in {p.unit}")
            out.append(
                {
                    "group": h.group,
                    "hegpu": h.system,
                    "peer": p.system,
                    "ratio": p.median / h.median,
                    "low": p.q1 / h.q3,
                    "high": p.q3 / h.q1,
                    "hegpu_note": h.note,
                    "peer_note": p.note,
                }
            )
    columns = ["group", "hegpu", "peer", "ratio", "low", "high", "hegpu_note", "peer_note"]
    return pd.DataFrame(out, columns=columns)


def _label(row: Any) -> str:
    ours = row.hegpu.removeprefix("hegpu cpu").strip()
    detail = row.peer_note.split(";")[0] if row.group.startswith("NTT") else ""
    return f"{row.group}{f', {ours}' if ours else ''}\nagainst {row.peer}{f', {detail}' if detail else ''}"


def picture(table: pd.DataFrame) -> bytes:
    """A bar for each ratio, on a logarithmic axis that starts at 1."""
    sns.set_theme(style="whitegrid", font_scale=0.85)
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.55 * max(1, len(table))), layout="constrained")
    for i, row in enumerate(table.itertuples()):
        colour = sns.color_palette("deep")[0 if row.ratio >= 1 else 3]
        axes.barh(i, row.ratio - 1, left=1, color=colour, height=0.6)
        axes.plot([row.low, row.high], [i, i], color="black", linewidth=1.2)
        axes.text(max(row.high, row.ratio, 1) * 1.06, i, f"{row.ratio:.3g}x", va="center")
    axes.set_yticks(range(len(table)), [_label(row) for row in table.itertuples()])
    axes.set_ylim(max(1, len(table)) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1)
    if len(table):
        axes.set_xlim(min(0.5, table["low"].min() / 1.3), max(2.0, table["high"].max() * 3))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("peer's median time / hegpu's; above 1 hegpu is faster\nblack line: quartiles of both")
    axes.grid(axis="y", visible=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def _time(seconds: float) -> str:
    if seconds <= 0:
        return f"{seconds:.3g} s"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-12:.3g} ps"


def _html_table(heads: list[str], body: list[list[str]], numeric: set[int]) -> str:
    def cells(tag: str, values: list[str]) -> str:
        marks = [' class="n"' if i in numeric else "" for i in range(len(values))]
        pairs = zip(marks, values, strict=True)
        return "<tr>" + "".join(f"<{tag}{mark}>{html.escape(value)}</{tag}>" for mark, value in pairs) + "</tr>"

    return f"<table>{cells('th', heads)}{''.join(cells('td', line) for line in body)}</table>"


def page(result: dict[str, Any], table: pd.DataFrame, compared: pd.DataFrame, png: bytes) -> str:
    """The whole report, in one file."""
    machine, commit = result["machine_info"], result["commit_info"]
    state = "with uncommitted changes" if commit.get("dirty") else "clean"
    facts = [
        ["date", str(result["datetime"])],
        ["commit", f"{str(commit.get('id', 'unknown'))[:12]}, {state}"],
        *[[key, " ".join(value) if isinstance(value, list) else str(value)] for key, value in machine.items()],
    ]
    lines = [
        [r.group, r.hegpu, r.peer, f"{r.ratio:.3g}", f"{r.low:.3g} to {r.high:.3g}", r.hegpu_note, r.peer_note]
        for r in compared.itertuples()
    ]
    times = [
        [r.group, r.system, _time(r.median), f"{_time(r.q1)} to {_time(r.q3)}", r.unit, str(r.rounds)]
        for r in table.itertuples()
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>hegpu beside its peers</title>'
        f"<style>{STYLE}</style><h1>hegpu beside its peers</h1>"
        "<p>Each ratio is the peer's median time over hegpu's, in one run on one machine: above 1 hegpu is faster. "
        "Parameters differ where the notes say so.</p>"
        f'<img alt="ratios" src="data:image/png;base64,{base64.b64encode(png).decode()}"><h2>Ratios</h2>'
        + _html_table(["comparison", "hegpu", "peer", "ratio", "spread", "hegpu's note", "peer's note"], lines, {3, 4})
        + "<h2>Times</h2>"
        + _html_table(["comparison", "system", "median", "quartiles", "per", "rounds"], times, {2, 3, 5})
        + "<h2>Machine</h2>"
        + _html_table(["", ""], facts, set())
        + "</html>\n"
    )


def render(source: Path, folder: Path) -> None:
    """Draw ``source`` into ``folder``."""
    result = json.loads(source.read_text())
    table = rows(result)
    compared = ratios(table)
    png = picture(compared)
    (folder / "ratios.png").write_bytes(png)
    (folder / "index.html").write_text(page(result, table, compared, png))
    print(f"{source.name}: {len(compared)} ratios, {len(table)} benchmarks")


if __name__ == "__main__":
    render(Path(sys.argv[1]) if sys.argv[1:] else newest(HERE / "data"), HERE)
