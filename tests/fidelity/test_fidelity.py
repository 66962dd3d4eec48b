import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from hegpu.ct.metrics import compare
from hegpu.ct.noise import power_spectrum
from hegpu.ct.phantom import phantom
from hegpu.ct.simulate import Pairs
from hegpu.errors import HegpuError, ModelError, ParameterError
from hegpu.extras import require
from hegpu.fidelity.baselines import CLASSICAL, classical
from hegpu.fidelity.evaluate import REGIONS, denoiser, evaluate, markdown, write_report
from hegpu.fidelity.run import evaluate_to_folder
from hegpu.nets.family import make
from hegpu.nets.file import save_network
from hegpu.nets.plaintext import run


def pairs(size=96, sigmas=(15, 40)):
    rng = np.random.default_rng(0)
    full = np.stack([phantom((size, size), seed=z) for z in range(2)])
    low = np.stack([full + rng.normal(0, sigma, full.shape) for sigma in sigmas])
    clip = [np.clip(np.rint(a), -1024, 3071).astype(np.int16) for a in (full, low)]
    return Pairs("one", "p", clip[0], clip[1], (0.25, 0.05), 0.8, None)


def test_the_table_holds_the_metrics_of_every_slice():
    pair = pairs()
    result = evaluate({"half": lambda hu: hu / 2}, [pair])
    assert len(result.table) == 2 * 2 * 2 * len(REGIONS)
    row = result.table.query("model == 'half' and dose == 0.05 and slice == 1 and region == 'window'").iloc[0]
    expected = compare(pair.low[1, 1] / 2, pair.full[1])
    assert (row.psnr_db, row.ssim, row.rmse_hu) == (expected.psnr_db, expected.ssim, expected.rmse_hu)
    inner = result.table.query("model == 'low dose' and dose == 0.25 and slice == 0 and region == 'full_inner'").iloc[0]
    cut = (slice(20, -20),) * 2
    assert inner.rmse_hu == compare(pair.low[0, 0][cut], pair.full[0][cut], (-1024, 3071)).rmse_hu


def test_gains_are_means_of_differences_to_the_low_dose():
    pair = pairs()
    result = evaluate({"perfect-ish": lambda hu: hu * 0 + pair.full[0]}, [pair], every=2)
    summary = result.summary("window").set_index(["dose", "model"])
    assert summary.loc[(0.25, "low dose")].gain_db == 0
    assert summary.loc[(0.25, "perfect-ish")].gain_db == float("inf")
    assert summary.loc[(0.25, "low dose")].slices == 1
    assert summary.index[0][0] == 0.25


@pytest.mark.parametrize("name", CLASSICAL)
def test_classical_denoisers_denoise(name):
    pair = pairs(sigmas=(15, 40))
    for z in range(2):
        low, full = pair.low[1, z].astype(float), pair.full[z]
        assert compare(classical(name)(low), full).psnr_db > compare(low, full).psnr_db + (
            0.3 if name == "wavelets" else 3
        )


def test_a_report_is_written_and_its_spectra_show_what_was_left(tmp_path):
    pair = pairs(160)
    smooth = denoiser(make("redcnn-linear", 2, 4))
    result = evaluate({"net": smooth, "perfect": lambda hu: pair.full[0].astype(float)}, [pair], every=2)
    files = write_report(result, tmp_path / "out")
    assert all(path.stat().st_size > 100 for path in files)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in files)
    assert {"low dose", "net", "perfect"} <= set(result.spectra)
    assert result.spectra["perfect"][1].max() == 0
    _, power = result.spectra["low dose"]
    assert power[2:].mean() == pytest.approx(15**2 * pair.spacing_mm**2, rel=0.25)  # white noise of 15 HU
    assert len(pd.read_csv(files[0])) == len(result.table)
    assert list(result.examples) == ["normal dose", "low dose", "net", "perfect"]
    assert "±" in markdown(result)


def test_torch_and_numpy_give_one_denoiser():
    net, hu = make("redcnn-gate", 3, 4), phantom((48, 48), seed=0)
    assert np.abs(denoiser(net)(hu) - run(net, hu)).max() < 1e-2


def test_from_data_and_names_to_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HEGPU_CACHE", str(tmp_path / "cache"))
    series = {f"s{n}": np.stack([phantom((64, 64), seed=n)]).astype(np.int16) for n in range(2)}
    np.savez(tmp_path / "d.npz", **series)
    volumes = [{"key": key, "patient": key.upper(), "pixel_spacing_mm": [4.0, 4.0], "z_mm": [0]} for key in series]
    (tmp_path / "d.json").write_text(json.dumps({"volumes": volumes}))
    save_network(make("redcnn", 2, 4, name="mine"), tmp_path / "mine.safetensors")
    console = Console(quiet=True)
    result = evaluate_to_folder([str(tmp_path / "mine.safetensors")], tmp_path / "out", console, data=tmp_path / "d.npz",
                                held=["S1"], baselines=False)  # fmt: skip
    assert set(result.table.series) == {"s1"}
    assert set(result.table.model) == {"low dose", "mine"}
    assert set(result.table.dose) == {0.25, 0.1, 0.05}
    with pytest.raises(ParameterError, match=r"'s9'.*S0"):
        evaluate_to_folder([], tmp_path / "o2", console, data=tmp_path / "d.npz", held=["s9"])
    with pytest.raises(ModelError, match="shipped"):
        evaluate_to_folder(["no-such"], tmp_path / "o2", console)
    with pytest.raises(ParameterError, match="two denoisers"):
        evaluate_to_folder([str(tmp_path / "mine.safetensors")] * 2, tmp_path / "o2", console)


def test_power_spectra_obey_parseval():
    rng = np.random.default_rng(0)
    fields = [rng.normal(0, 3, (96, 96)) for _ in range(4)]
    frequency, power = power_spectrum(fields, 0.5, 32)
    assert power[1:].mean() == pytest.approx(9 * 0.25, rel=0.05)
    assert frequency[1] == pytest.approx(1 / 16)


def test_a_missing_package_is_named_with_its_extra():
    require("numpy", extra="train")
    with pytest.raises(HegpuError, match=r"no_such_package.*hegpu\[train\]"):
        require("no_such_package", extra="train")
