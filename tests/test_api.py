"""The public surface, the command line, and the README's examples, as a user meets them."""

import inspect
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hegpu
from hegpu import api
from hegpu.backend.select import select
from hegpu.ckks.ciphertext_files import dump_ciphertext
from hegpu.ct.dicom import example_slice_path, read_slice
from hegpu.errors import BackendError, FormatError, ModelError, ParameterError
from hegpu.nets.plaintext import run

ROOT = Path(__file__).parents[1]


def cli(*arguments: str, cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
    result = subprocess.run(
        [sys.executable, "-c", "from hegpu.cli import main; main()", *arguments],
        cwd=cwd, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "agg", **environment}, check=False,
    )  # fmt: skip
    assert not check or result.returncode == 0, result.stderr
    return result


def test_the_public_api_is_pinned() -> None:
    assert hegpu.__all__ == ["HegpuError", "decrypt", "denoise", "encrypt", "keygen", "load_model"]
    signatures = {name: list(inspect.signature(getattr(hegpu, name)).parameters) for name in hegpu.__all__[1:]}
    assert signatures == {
        "decrypt": ["encrypted", "keys", "out", "like", "backend"],
        "denoise": ["encrypted", "model", "out", "backend"],
        "encrypt": ["image", "keys", "out", "halo", "backend"],
        "keygen": ["preset_name", "out"],
        "load_model": ["source"],
    }
    with pytest.raises(AttributeError):
        _ = hegpu.nothing


def test_arrays_in_and_out() -> None:
    keys = hegpu.keygen()
    hu = read_slice(example_slice_path()).hu
    answer = hegpu.denoise(hegpu.encrypt(hu, keys), "linear")
    difference = hegpu.decrypt(answer, keys) - run(hegpu.load_model("linear"), hu)
    assert np.sqrt(np.mean(difference**2)) <= 0.002
    assert np.abs(difference).max() <= 0.02


def test_command_line_from_key_to_dicom(tmp_path) -> None:
    image = str(example_slice_path())
    cli("keygen", "--out", "keys", cwd=tmp_path)
    assert stat.S_IMODE((tmp_path / "keys" / "master.secret").stat().st_mode) == 0o600
    cli("encrypt", image, "--keys", "keys", "--out", "slice.ct", cwd=tmp_path)
    server = tmp_path / "server"
    server.mkdir()
    (tmp_path / "slice.ct").rename(server / "slice.ct")
    cli("denoise", "slice.ct", "--model", "linear", "--out", "denoised.ct", cwd=server)
    cli("decrypt", "server/denoised.ct", "--keys", "keys", "--like", image, "--out", "out.dcm", cwd=tmp_path)
    expected = np.rint(run(hegpu.load_model("linear"), read_slice(image).hu))
    assert (read_slice(tmp_path / "out.dcm").hu == np.clip(expected, -1024, 3071)).mean() > 0.99
    text = (server / "slice.ct").read_bytes() + (server / "denoised.ct").read_bytes()
    assert b"CT_small" not in text
    assert b"CompressedSamples" not in text  # the patient's name in that file
    for file in ("server/slice.ct", "server/denoised.ct", "keys"):
        shown = cli("info", file, cwd=tmp_path).stdout
        assert "128 bits" in shown
    secret = (tmp_path / "keys" / "master.secret").read_text().split()[-1]
    assert secret not in cli("info", "keys", cwd=tmp_path).stdout

    again = cli("keygen", "--out", "keys", cwd=tmp_path, check=False)
    assert again.returncode == 1
    assert "already holds keys" in again.stderr
    cli("keygen", "--out", "other", cwd=tmp_path)
    foreign = cli(
        "decrypt",
        "server/denoised.ct",
        "--keys",
        "other",
        "--like",
        image,
        "--out",
        "no.dcm",
        cwd=tmp_path,
        check=False,
    )
    assert foreign.returncode == 1
    assert "another key" in foreign.stderr
    assert "Traceback" not in foreign.stderr
    assert not (tmp_path / "no.dcm").exists()
    unknown = cli("denoise", "server/slice.ct", "--model", "nothing", "--out", "x", cwd=tmp_path, check=False)
    assert unknown.returncode == 1
    assert "linear" in unknown.stderr


def test_doctor_and_help(tmp_path) -> None:
    assert "backend cuda" in cli("doctor", cwd=tmp_path).stdout
    for command in ("keygen", "encrypt", "denoise", "decrypt", "info", "demo"):
        assert "Example" in cli(command, "--help", cwd=tmp_path).stdout
    outside = cli("report", cwd=tmp_path, check=False)
    assert outside.returncode == 1
    assert "checkout" in outside.stderr


def test_demo(tmp_path) -> None:
    shown = cli("demo", "--out", "demo", cwd=tmp_path).stdout
    assert (tmp_path / "demo" / "demo.png").stat().st_size > 50_000
    rms = float(re.search(r"difference rms\D+([\d.]+) HU", shown)[1])
    assert 0 < rms <= 0.002
    assert float(re.search(r"difference largest\D+([\d.]+) HU", shown)[1]) <= 0.02
    assert "PSNR" in shown
    assert "bytes up / pixel" in shown


def test_demo_on_an_archive(tmp_path) -> None:
    np.savez(tmp_path / "ct.npz", series=read_slice(example_slice_path()).hu[None].astype(np.int16))
    assert "difference rms" in cli("demo", "--image", "ct.npz", "--out", "demo", cwd=tmp_path).stdout


def test_backends_are_chosen_explicitly(monkeypatch) -> None:
    assert select("reference").name == "reference"
    monkeypatch.setenv("HEGPU_BACKEND", "reference")
    assert select().name == "reference"
    monkeypatch.delenv("HEGPU_BACKEND")
    assert select(threads=1).threads == 1
    monkeypatch.setenv("HEGPU_THREADS", "3")
    assert select().threads == 3
    monkeypatch.setenv("HEGPU_THREADS", "many")
    with pytest.raises(ParameterError, match="HEGPU_THREADS"):
        select()
    for bad in ("cuda", "gpu"):
        with pytest.raises(BackendError):
            select(bad)
    with pytest.raises(BackendError, match="threads"):
        select("reference", threads=2)


def test_damaged_keys(tmp_path) -> None:
    folder = tmp_path / "keys"
    with pytest.raises(FormatError, match="keygen"):
        api.load_keys(folder)
    keys = api.keygen(out=folder)
    assert api.load_keys(folder) == keys
    secret = (folder / "master.secret").read_bytes()
    for bad in (b"", secret[:-10], secret.replace(b"secret 1", b"secret 2"), secret[:-3] + b"zz\n"):
        (folder / "master.secret").write_bytes(bad)
        with pytest.raises(FormatError):
            api.load_keys(folder)
    other = bytes.fromhex(api.keygen().secret.hex())
    (folder / "master.secret").write_bytes(b"hegpu-master-secret 1\n" + other.hex().encode() + b"\n")
    with pytest.raises(FormatError, match="together"):
        api.load_keys(folder)
    (folder / "parameters.json").write_text(json.dumps([1]))
    with pytest.raises(FormatError):
        api.load_keys(folder)


def test_misuse_of_the_api(tmp_path) -> None:
    keys = hegpu.keygen()
    with pytest.raises(ParameterError, match="like"):
        hegpu.decrypt(b"", keys, tmp_path / "x.dcm")
    with pytest.raises(FormatError):
        hegpu.denoise(tmp_path / "missing.ct", "linear")
    with pytest.raises(ModelError):
        hegpu.load_model(tmp_path / "missing.safetensors")


def test_ckks_keys_and_precision_from_the_shell(tmp_path) -> None:
    assert (
        "128 bits" in cli("keygen", "--preset", "ckks-13", "--rotations", "1,-2", "--out", "keys", cwd=tmp_path).stdout
    )
    client = api.open_client(tmp_path / "keys")
    assert client.keys.rotations == [1, 4094]
    values = np.linspace(-1, 1, 4096)
    x = client.vector(values)
    product = (x * x).ciphertext
    (tmp_path / "x.ct").write_bytes(dump_ciphertext(client.backend, product))
    np.save(tmp_path / "square.npy", values**2)
    for extra in ((), ("--expected", "square.npy")):
        shown = cli("info", "x.ct", "--keys", "keys", *extra, cwd=tmp_path).stdout
        assert "1 of 2" in shown and "min" in shown and "noise budget" in shown
    assert cli("info", "x.ct", "--expected", "square.npy", cwd=tmp_path, check=False).returncode != 0
    assert cli("keygen", "--rotations", "1", "--out", "other", cwd=tmp_path, check=False).returncode != 0


def test_import_needs_little() -> None:
    code = "import sys, hegpu; bad = {'pydicom', 'skimage', 'typer', 'matplotlib', 'torch'} & set(sys.modules); assert not bad, bad"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_readme_examples_run_as_printed(tmp_path) -> None:
    blocks = re.findall(r"```(python|sh)\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    ran = 0
    for language, text in blocks:
        if language == "python":
            subprocess.run([sys.executable, "-c", text], check=True, cwd=tmp_path)
            ran += 1
        elif re.search(r"^hegpu ", text, re.M):
            script = text.replace("hegpu ", f"{Path(sys.executable).parent / 'hegpu'} ")
            script = script.replace("SLICE.dcm", str(example_slice_path()))
            environment = {**os.environ, "HEGPU_CACHE": str(tmp_path / "cache")}
            subprocess.run(["sh", "-e", "-c", script], check=True, cwd=tmp_path, env=environment)
            ran += 1
    assert ran >= 3
