"""The report, from a small result written by hand: the numbers in it are invented."""

import json
from pathlib import Path

import pytest

from reports.render import newest, ratios, render, rows

FIXTURE = Path(__file__).parent / "result.json"


def test_ratios_are_per_unit_of_work() -> None:
    table = ratios(rows(json.loads(FIXTURE.read_text())))
    assert list(table["peer"]) == ["fake 1.0"]
    assert table["ratio"][0] == pytest.approx(10.0)  # 8 s for 4 against 2 s for 10
    assert table["low"][0] == pytest.approx(7.0 / 4 / 0.25) and table["high"][0] == pytest.approx(9.0 / 4 / 0.16)


def test_different_units_are_refused() -> None:
    result = json.loads(FIXTURE.read_text())
    result["benchmarks"][0]["extra_info"]["unit"] = "slice"
    with pytest.raises(ValueError, match="hegpu counts in slice"):
        ratios(rows(result))


def test_one_page_with_its_picture(tmp_path: Path) -> None:
    render(FIXTURE, tmp_path)
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "index.html").read_text()
    assert "data:image/png;base64," in text and "http" not in text
    for word in ("fake 1.0", "with uncommitted changes", "a &lt;processor&gt;", "7 to 14.1"):
        assert word in text


def test_nothing_to_compare_is_still_a_page(tmp_path: Path) -> None:
    result = json.loads(FIXTURE.read_text())
    result["benchmarks"] = result["benchmarks"][2:]
    (tmp_path / "r.json").write_text(json.dumps(result))
    render(tmp_path / "r.json", tmp_path)
    assert "alone" in (tmp_path / "index.html").read_text()


def test_the_newest_result_or_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"python -m bench\.run"):
        newest(tmp_path)
    for name in ("2026-01-02-b.json", "2026-01-01-c.json"):
        (tmp_path / name).write_text("{}")
    assert newest(tmp_path).name == "2026-01-02-b.json"
