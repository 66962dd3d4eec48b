"""The command line. It only calls :mod:`hegpu.api`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hegpu.errors import HegpuError, ParameterError
from hegpu.service import commands as service

app = typer.Typer(
    help="Denoise low-dose CT slices while they stay encrypted. Research software, not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
Backend = Annotated[str | None, typer.Option("--backend", help="cpu or reference; default HEGPU_BACKEND, else cpu")]
Threads = Annotated[int | None, typer.Option("--threads", help="default HEGPU_THREADS, else all processors")]
Keys = Annotated[Path, typer.Option("--keys", help="folder made by 'hegpu keygen'")]
app.command(epilog="Example: hegpu serve --models nets/ --tokens tokens --tls-cert cert.pem --tls-key key.pem")(
    service.serve
)
app.command(epilog="Example: hegpu token clinic-a --tokens tokens > clinic-a.token")(service.token)
app.add_typer(service.client, name="client")


@app.command(epilog="Example: hegpu keygen --out keys/")
def keygen(
    out: Annotated[Path, typer.Option(help="new folder for the keys")],
    preset: Annotated[str, typer.Option(help="linear, compact, lossless, ckks-13 ... ckks-16")] = "linear",
    rotations: Annotated[str, typer.Option(help="ckks- presets: steps to make keys for, such as 1,2,-3")] = "",
) -> None:
    """Make a master secret (0600) and its public parameters; for ckks- presets also evaluation/, for the server."""
    from hegpu import api
    from hegpu.ckks.params import LEVELLED

    if rotations and preset not in LEVELLED:
        raise ParameterError(f"keygen: preset {preset!r} rotates nothing; leave out --rotations or use a ckks- preset")
    try:
        steps = [int(part) for part in rotations.split(",") if part]
    except ValueError:
        raise ParameterError(f"keygen: --rotations {rotations!r} is not a list of integers such as 1,2,-3") from None
    keys = api.keygen(preset, out)
    if preset in LEVELLED:
        api.evaluation_keys(out, steps)
    print(
        f"{out}: preset {keys.params.name}, {keys.params.security_bits} bits, fingerprint {api.key_fingerprint(keys)}"
    )


@app.command(epilog="Example: hegpu encrypt SLICE.dcm --keys keys/ --out slice.ct")
def encrypt(
    image: Annotated[Path, typer.Argument(help="a CT slice in DICOM")],
    keys: Keys,
    out: Annotated[Path, typer.Option(help="the encrypted slice")],
    halo: Annotated[int, typer.Option(help="filters of up to 2 halo + 1 pixels can be applied")] = 6,
    backend: Backend = None,
    threads: Threads = None,
) -> None:
    """Encrypt a slice under a key of its own. No DICOM field and no file name enters the result."""
    from hegpu import api
    from hegpu.backend.select import select

    api.encrypt(image, keys, out, halo=halo, backend=select(backend, threads))
    print(f"{out}: {out.stat().st_size:,} bytes")


@app.command(epilog="Example: hegpu denoise slice.ct --model linear --out denoised.ct")
def denoise(
    encrypted: Annotated[Path, typer.Argument(help="an encrypted slice")],
    model: Annotated[str, typer.Option(help="a shipped network's name or a network file")],
    out: Annotated[Path, typer.Option(help="the encrypted result")],
    backend: Backend = None,
    threads: Threads = None,
) -> None:
    """Denoise an encrypted slice. Needs no secret key."""
    from hegpu import api
    from hegpu.backend.select import select

    api.denoise(encrypted, model, out, backend=select(backend, threads))
    print(f"{out}: {out.stat().st_size:,} bytes. Border: the slice's edge pixels were repeated outwards.")


@app.command(epilog="Example: hegpu decrypt denoised.ct --keys keys/ --like SLICE.dcm --out out.dcm")
def decrypt(
    encrypted: Annotated[Path, typer.Argument(help="an encrypted result")],
    keys: Keys,
    like: Annotated[Path, typer.Option(help="the slice that was encrypted")],
    out: Annotated[Path, typer.Option(help="the denoised slice, a derived DICOM")],
    backend: Backend = None,
    threads: Threads = None,
) -> None:
    """Decrypt a result into a derived DICOM."""
    from hegpu import api
    from hegpu.backend.select import select

    hu = api.decrypt(encrypted, keys, out, like=like, backend=select(backend, threads))
    print(f"{out}: {hu.shape[0]}x{hu.shape[1]} pixels, {hu.min():.0f} to {hu.max():.0f} HU")


@app.command(epilog="Example: hegpu info slice.ct")
def info(
    file: Annotated[Path, typer.Argument(help="a hegpu file, a keys folder, or a network")],
    keys: Annotated[Path | None, typer.Option(help="a ciphertext's key folder: its precision is reported")] = None,
    expected: Annotated[Path | None, typer.Option(help="with --keys: .npy with what the slots should hold")] = None,
) -> None:
    """What a file holds; with the secret key, how precise a ciphertext is."""
    from hegpu.inspection import describe, measured

    rows = describe(file)
    if keys is not None:
        rows += measured(file, keys, expected)
    elif expected is not None:
        raise ParameterError("info: --expected needs --keys, since only the key's holder can compare")
    _table(f"{file}", ["field", "value"], rows)


@app.command()
def doctor() -> None:
    """What this machine offers, what is missing and how to get it."""
    from hegpu.doctor import report

    _table("hegpu doctor", ["item", "state", "to get it"], report())


@app.command(epilog="Example: hegpu demo --out demo-out")
def demo(
    image: Annotated[
        Path | None, typer.Option(help="a DICOM slice, or an .npz of series; default CT_small.dcm")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for demo.png and the files")] = Path("demo-out"),
    dose: Annotated[float, typer.Option(help="fraction of the photons")] = 0.05,
    model: Annotated[str, typer.Option(help="a linear network")] = "linear",
    backend: Backend = None,
    threads: Threads = None,
) -> None:
    """Lower a real slice's dose, denoise it encrypted and in the clear, compare."""
    from hegpu.backend.select import select
    from hegpu.demo import run

    for result in run(image, out, dose, model, select(backend, threads), Console(stderr=True)):
        for title, columns, rows in result.tables():
            _table(title, columns, rows)
    print("Border: the slice's edge pixels were repeated outwards, in the clear and encrypted alike.")
    print(f"picture: {out / 'demo.png'}")


@app.command(
    epilog="Example: hegpu train --data ct_train.npz --held crlm_1006 --kind redcnn-gate --width 16 --out runs/gate-16"
)
def train(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="folder for the network, its card, the curves and the checkpoint")],
    data: Annotated[
        Path | None, typer.Option(help="an .npz, NIfTI files or a DICOM folder (docs/data.md); default phantoms")
    ] = None,
    held: Annotated[list[str], typer.Option(help="a patient or series to validate on; repeat for more")] = [],  # noqa: B006
    kind: Annotated[
        str, typer.Option(help="redcnn, redcnn-linear, redcnn-gate, redcnn-quad, or linear: one filter, fitted")
    ] = "redcnn-gate",
    width: Annotated[int, typer.Option(help="channels")] = 32,
    depth: Annotated[int, typer.Option(help="layers, even")] = 10,
    steps: Annotated[int, typer.Option()] = 2400,
    batch: Annotated[int, typer.Option(help="patches a step")] = 8,
    peak_lr: Annotated[float | None, typer.Option(help="peak learning rate; default by kind")] = None,
    fraction_bits: Annotated[int, typer.Option(help="weights become multiples of 2^-BITS; 0 keeps float32")] = 10,
    precision: Annotated[str, typer.Option(help="float32, or mixed: bfloat16 for the first four fifths")] = "float32",
    seed: Annotated[int, typer.Option()] = 0,
    start: Annotated[str | None, typer.Option("--from", help="a network to start from, widened if narrower")] = None,
    name: Annotated[str | None, typer.Option(help="the network's name; default KIND-WIDTH")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    every: Annotated[int, typer.Option(help="evaluate for the card on every N-th slice")] = 4,
    i0: Annotated[float | None, typer.Option(help="photons a ray at full dose; default calibrated")] = None,
) -> None:
    """Train a denoiser. A run that was stopped goes on from its checkpoint when called again."""
    from hegpu.extras import require

    require("torch", "pandas", "pywt", extra="train")
    from hegpu.nets.file import load_network
    from hegpu.train.config import TrainConfig, default_lifting, default_peak_lr
    from hegpu.train.run import fit_to_file, train_to_file

    console = Console(stderr=True)
    if kind == "linear":
        used = {"out", "data", "held", "kind", "name", "i0"}
        given = [key for key in context.params if str(context.get_parameter_source(key)).endswith("COMMANDLINE")]
        if unused := sorted(set(given) - used):
            raise ParameterError(
                f"train: --kind linear is fitted in closed form and has no {', '.join(unused)}; leave them out"
            )
        net = fit_to_file(out, console, data=data, held=held, name=name or "linear", i0=i0)
        print(f"{out / (net.name + '.safetensors')} and its card {net.name}.md")
        return
    config = TrainConfig(
        kind=kind,
        width=width,
        depth=depth,
        lifting=default_lifting(kind),
        steps=steps,
        batch=batch,
        peak_lr=default_peak_lr(kind) if peak_lr is None else peak_lr,
        fraction_bits=fraction_bits or None,
        precision=precision,
        seed=seed,
    )
    begin = load_network(start) if start else None
    net = train_to_file(
        config, out, console, data=data, held=held, start=begin, name=name, device=device, every=every, i0=i0
    )
    print(f"{out / (net.name + '.safetensors')}, its card {net.name}.md and curves.png")


@app.command(epilog="Example: hegpu evaluate redcnn-16 levelled-16 --data ct_train.npz --held crlm_1006 --out fidelity")
def evaluate(
    models: Annotated[list[str], typer.Argument(help="shipped names or network files")],
    out: Annotated[Path, typer.Option(help="folder for the tables and plots")] = Path("fidelity"),
    data: Annotated[
        Path | None, typer.Option(help="an .npz, NIfTI files or a DICOM folder (docs/data.md); default phantoms")
    ] = None,
    held: Annotated[list[str], typer.Option(help="a patient or series to evaluate on; default all")] = [],  # noqa: B006
    every: Annotated[int, typer.Option(help="take every N-th slice")] = 1,
    i0: Annotated[float | None, typer.Option(help="photons a ray at full dose; default calibrated")] = None,
    baselines: Annotated[bool, typer.Option(help="with the classical denoisers of scikit-image")] = True,
) -> None:
    """Fidelity of networks against the normal dose, beside classical denoisers, at 25, 10 and 5 % dose."""
    from hegpu.extras import require

    require("pandas", "pywt", extra="train")
    from hegpu.fidelity.evaluate import spread
    from hegpu.fidelity.run import evaluate_to_folder

    result = evaluate_to_folder(
        models, out, Console(stderr=True), data=data, held=held, every=every, i0=i0, baselines=baselines
    )
    for region, title in (("window", "window [-160, 240] HU"), ("full", "full range [-1024, 3071] HU")):
        rows = [
            (f"{r.dose:.0%}", r.model, spread(r.psnr_db, r.psnr_sd, 2), f"{r.gain_db:+.2f}", spread(r.ssim, r.ssim_sd, 4),
             spread(r.rmse_hu, r.rmse_sd, 2))
            for r in result.summary(region).itertuples()
        ]  # fmt: skip
        _table(
            f"{title}: mean ± standard deviation over slices",
            ["dose", "model", "PSNR dB", "gain dB", "SSIM", "RMSE HU"],
            rows,
        )
    print(f"{out}: fidelity.csv, summary.csv, fidelity.png, spectrum.png, panel.png")


@app.command()
def report() -> None:
    """Draw the stored benchmark results (in a checkout) as one page under reports/."""
    _checkout("reports.render", [])


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(context: typer.Context) -> None:
    """Run the benchmark suite (in a checkout)."""
    _checkout("bench.run", context.args)


def _checkout(module: str, arguments: list[str]) -> None:
    import subprocess

    if not Path(*module.split(".")).with_suffix(".py").is_file():
        raise HegpuError(f"{module}: benchmarks and reports live in a checkout of hegpu; run this in its root folder")
    raise typer.Exit(subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode)


def _table(title: str, columns: list[str], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(title=Text(title), title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main() -> None:
    """Entry point: an error of ours is one line and exit code 1."""
    try:
        app()
    except HegpuError as error:
        print(f"hegpu: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        print(
            f"hegpu: {error.filename or 'a file'}: {error.strerror or error}; choose another path or free it",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
