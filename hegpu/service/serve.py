"""Runs the server until it is told to stop."""

import logging
from collections.abc import Mapping
from pathlib import Path

import uvicorn

from hegpu.backend.protocol import Backend
from hegpu.errors import ParameterError
from hegpu.service.app import create_app
from hegpu.service.catalogue import load_catalogue
from hegpu.service.connections import bounded
from hegpu.service.hosts import is_loopback
from hegpu.service.limits import Limits
from hegpu.service.protocols import ServerProtocol
from hegpu.service.service import PROTOCOLS, Service
from hegpu.service.tokens import Tokens

log = logging.getLogger("hegpu.service")
_CONNECTIONS = 1024
_IDLE_S = 75
_GOODBYE_S = 30


def serve(
    backend: Backend,
    models: Path,
    state: Path,
    limits: Limits,
    *,
    host: str,
    port: int,
    tokens: Path | None = None,
    insecure_no_token: bool = False,
    shipped: bool = False,
    tls: tuple[Path, Path] | None = None,
    protocols: Mapping[str, ServerProtocol] = PROTOCOLS,
) -> None:
    """Serve until SIGINT or SIGTERM. ``tls``: certificate chain and private key, PEM files.

    Errors: :class:`ParameterError` for a server that would let everyone in, :class:`~hegpu.errors.ModelError` and
    :class:`~hegpu.errors.FormatError` for networks and tokens that can not be read.
    """
    known = _tokens(tokens, insecure_no_token, host)
    for file in tls or ():
        if not file.is_file():
            raise ParameterError(f"serve: there is no file {file}; give certificate and key in PEM")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("uvicorn.error").addFilter(_without_traceback)
    if tls is None and not is_loopback(host):
        log.warning("no TLS: tokens travel in the clear unless a proxy in front of this server encrypts")
    service = Service(backend, load_catalogue(models, shipped, protocols), known, state, limits)
    for model in service.catalogue.by_name.values():
        log.info("model %s: %s", model.name, ", ".join(model.protocols) or "no protocol of this server runs it")
    config = uvicorn.Config(
        create_app(service),
        host=host,
        port=port,
        http=bounded(limits.body_seconds),
        loop="asyncio",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_GOODBYE_S,
        ssl_certfile=tls[0] if tls else None,
        ssl_keyfile=tls[1] if tls else None,
    )
    uvicorn.Server(config).run()


def _tokens(path: Path | None, insecure_no_token: bool, host: str) -> Tokens | None:
    if path is not None:
        return Tokens.read(path)
    if not insecure_no_token:
        raise ParameterError(
            "serve: without --tokens everyone could call; make a token with 'hegpu token', or, to try it on this "
            "machine only, add --insecure-no-token"
        )
    if not is_loopback(host):
        raise ParameterError(f"serve: --insecure-no-token is for loopback only, not for {host}; use --tokens")
    return None


def _without_traceback(record: logging.LogRecord) -> bool:
    """A traceback's last line is the exception's message, which might repeat what a client sent."""
    if record.exc_info and record.exc_info[0]:
        record.msg, record.args = f"{record.msg} ({record.exc_info[0].__name__})", None
        record.exc_info = record.exc_text = None
    return True
