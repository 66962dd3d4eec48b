"""The networks that a server offers, by name and by the digest of their file."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hegpu.errors import ModelError
from hegpu.nets.description import Network
from hegpu.nets.file import load_network, shipped_names, weights_folder
from hegpu.service.protocols import ServerProtocol
from hegpu.service.tokens import NAME, Caller


@dataclass(frozen=True)
class Model:
    name: str
    digest: str
    net: Network
    protocols: tuple[str, ...]


class Catalogue:
    def __init__(self, models: Iterable[Model], protocols: Mapping[str, ServerProtocol]) -> None:
        self.by_name = {model.name: model for model in models}
        self.by_digest = {model.digest: model for model in self.by_name.values()}
        self.protocols = dict(protocols)

    def allowed(self, model: Model, caller: Caller) -> list[str]:
        """The protocols in which this caller may use the model."""
        return [n for n in model.protocols if caller.may_hold_the_model or not self.protocols[n].discloses_model]


def load_catalogue(folder: Path, shipped: bool, protocols: Mapping[str, ServerProtocol]) -> Catalogue:
    """Every network in ``folder``, and the shipped ones if asked. Errors: :class:`ModelError`."""
    if not folder.is_dir():
        raise ModelError(f"serve: {folder} is no folder; give the folder of the network files with --models")
    paths = {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
    if shipped:
        both = sorted(set(paths) & set(shipped_names()))
        if both:
            raise ModelError(
                f"serve: {', '.join(both)} is in {folder} and is shipped; rename it or leave out --shipped"
            )
        paths |= {name: weights_folder() / f"{name}.safetensors" for name in shipped_names()}
    if not paths:
        raise ModelError(f"serve: {folder} holds no *.safetensors network; put one there or add --shipped")
    return Catalogue([_model(name, path, protocols) for name, path in paths.items()], protocols)


def _model(name: str, path: Path, protocols: Mapping[str, ServerProtocol]) -> Model:
    if not NAME.fullmatch(name):
        raise ModelError(f"serve: {path} is not named by 1 to 64 letters, digits and '_.-'; rename it")
    try:
        content = path.read_bytes()
    except OSError as cause:
        raise ModelError(f"serve: cannot read {path} ({cause.strerror}); check it") from cause
    try:
        net = load_network(content)
    except ModelError as cause:
        raise ModelError(
            f"serve: {path} is no network that can be offered ({cause}); remove it or repair it"
        ) from cause
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return Model(name, digest, net, tuple(n for n, protocol in protocols.items() if protocol.supports(net)))
