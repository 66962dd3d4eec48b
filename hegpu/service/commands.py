"""The service's commands; what needs the extra ``service`` is imported when it is used."""

from pathlib import Path
from typing import Annotated

import typer

from hegpu.errors import ParameterError
from hegpu.extras import require

client = typer.Typer(help="Use a server that runs 'hegpu serve'.", no_args_is_help=True, rich_markup_mode=None)
Backend = Annotated[str | None, typer.Option("--backend", help="cpu or reference; default HEGPU_BACKEND, else cpu")]
Threads = Annotated[int | None, typer.Option("--threads", help="default HEGPU_THREADS, else all processors")]


def serve(
    models: Annotated[Path, typer.Option(help="folder of *.safetensors networks, offered by their file names")],
    shipped: Annotated[bool, typer.Option("--shipped", help="offer the shipped networks, too")] = False,
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8443,
    tokens: Annotated[Path | None, typer.Option(help="file made by 'hegpu token'")] = None,
    insecure_no_token: Annotated[
        bool, typer.Option("--insecure-no-token", help="let everyone on this machine in; loopback only")
    ] = False,
    state: Annotated[Path, typer.Option(help="folder in which sessions survive a crash")] = Path("hegpu-state"),
    tls_cert: Annotated[Path | None, typer.Option(help="certificate chain, PEM")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="its private key, PEM")] = None,
    max_sessions: Annotated[int, typer.Option(min=1, help="open sessions, a token")] = 64,
    max_requests: Annotated[int, typer.Option(min=1, help="bodies in flight, a token")] = 16,
    max_queue: Annotated[int, typer.Option(min=1, help="jobs waiting")] = 64,
    body_seconds: Annotated[float, typer.Option(min=0.1, help="time for a head, a body, and its answer")] = 60,
    session_hours: Annotated[float, typer.Option(min=0, help="life of a session")] = 24,
    body_memory_mib: Annotated[int, typer.Option(min=1, help="all bodies and answers at one time")] = 512,
    key_mib: Annotated[int, typer.Option(min=1, help="one key blob")] = 1024,
    key_quota_mib: Annotated[int, typer.Option(min=1, help="key blobs, a token")] = 4096,
    backend: Backend = None,
    threads: Threads = None,
) -> None:
    """Offer networks to clients that send ciphertexts (docs/service.md)."""
    require("fastapi", "uvicorn", "httptools", "prometheus_client", extra="service")
    from hegpu.backend.select import select
    from hegpu.service.limits import MIB, Limits
    from hegpu.service.serve import serve as run

    if (tls_cert is None) != (tls_key is None):
        raise ParameterError("serve: TLS needs both --tls-cert and --tls-key; give both or neither")
    limits = Limits(
        sessions=max_sessions,
        requests=max_requests,
        queue=max_queue,
        body_seconds=body_seconds,
        session_hours=session_hours,
        body_memory=body_memory_mib * MIB,
        key_bytes=key_mib * MIB,
        key_quota=key_quota_mib * MIB,
    )
    run(
        select(backend, threads),
        models,
        state,
        limits,
        host=host,
        port=port,
        tokens=tokens,
        insecure_no_token=insecure_no_token,
        shipped=shipped,
        tls=(tls_cert, tls_key) if tls_cert and tls_key else None,
    )


def token(
    name: Annotated[str, typer.Argument(help="what logs call its holder")],
    tokens: Annotated[Path, typer.Option(help="the server's file; only a digest is written to it")],
    may_hold_the_model: Annotated[
        bool, typer.Option("--may-hold-the-model", help="allow client-relu, by which a client learns the network")
    ] = False,
) -> None:
    """Make a token for a client and print it once."""
    from hegpu.service.tokens import make_token

    print(make_token(name, tokens, may_hold_the_model))


@client.command(
    "denoise",
    epilog="Example: hegpu client denoise --server https://HOST:8443 --model linear --token-file t --out out.dcm SLICE.dcm",
)
def client_denoise(
    image: Annotated[Path, typer.Argument(help="a CT slice in DICOM")],
    server: Annotated[str, typer.Option(help="its URL")],
    model: Annotated[str, typer.Option(help="a network of the server")],
    out: Annotated[Path, typer.Option(help="the denoised slice, a derived DICOM")],
    token_file: Annotated[Path | None, typer.Option(help="what 'hegpu token' printed")] = None,
    protocol: Annotated[str, typer.Option(help="linear or client-relu")] = "linear",
    preset: Annotated[str | None, typer.Option(help="client-relu: lossless (default) or compact")] = None,
    accept_model_disclosure: Annotated[
        bool, typer.Option("--accept-model-disclosure", help="client-relu: I may learn the whole network")
    ] = False,
    keys: Annotated[Path | None, typer.Option(help="linear: folder of 'hegpu keygen'; default a key for once")] = None,
    state: Annotated[Path | None, typer.Option(help="folder to go on from; default .OUT.hegpu beside OUT")] = None,
    ca: Annotated[Path | None, typer.Option(help="certificate of the server's authority, PEM")] = None,
    backend: Backend = None,
    threads: Threads = None,
) -> None:
    """Denoise a slice on a server that sees ciphertexts only. The same command goes on after a crash."""
    require("httpx", extra="service")
    from hegpu.backend.select import select
    from hegpu.service.client import Task
    from hegpu.service.client_files import denoise_file

    traffic = denoise_file(
        select(backend, threads),
        server,
        Task(model, protocol, preset, accept_model_disclosure),
        image,
        out,
        token_file=token_file,
        keys=keys,
        state=state,
        ca=ca,
    )
    print(
        f"{out}: {traffic.up:,} bytes up, {traffic.down:,} bytes down; that takes {traffic.seconds(1e8):.2f} s at "
        f"100 Mbit/s, {traffic.seconds(1e9):.2f} s at 1 Gbit/s"
    )
