"""Work without a network: weights from files, and a clear error in place of a download."""

import dataclasses
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import _registry as timm_registry  # noqa: PLC2701

LOCAL_HOSTS = ("localhost", "127.", "::1")


class OfflineError(Exception):
    """Something asked for the network; the message says for whom."""


@contextmanager
def no_network() -> Generator[None, None, None]:
    """Raise where Python code asks for another machine; connections within this one still work.

    Whatever asks for the network gets an :class:`OfflineError`.

    Example:
        >>> with no_network():
        ...     socket.create_connection(("example.org", 80))
        Traceback (most recent call last):
            ...
        anomalib_anoseg.board.run.offline.OfflineError: example.org was asked for, but boards work offline: ...
    """
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def check(host: Any) -> None:  # noqa: ANN401
        host = host.decode() if isinstance(host, bytes) else host
        if isinstance(host, str) and host and not host.startswith(LOCAL_HOSTS):
            raise OfflineError(f"{host} was asked for, but boards work offline: give the files that it would load.")

    def checked_connect(self: socket.socket, address: Any) -> None:  # noqa: ANN401
        if isinstance(address, tuple):
            check(address[0])
        connect(self, address)

    def checked_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        check(host)
        return look_up(host, *args, **kwargs)

    socket.socket.connect, socket.getaddrinfo = checked_connect, checked_look_up  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        socket.socket.connect, socket.getaddrinfo = connect, look_up  # type: ignore[method-assign]


@contextmanager
def local_weights(backbone: str, path: Path | str) -> Generator[None, None, None]:
    """Let timm load a backbone's pre-trained weights from a file, or none at all.

    anomalib's models take the name of a backbone and let timm fetch its weights; they pass no path on, and a built
    module does not survive their feature extraction. So timm's own entry for the name points to the file meanwhile.

    Args:
        backbone: timm's name of the architecture.
        path: File with its state dict; ``"random"`` for untrained weights even where the model asks for others.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If timm has no pre-trained weights under this name, or the file holds those of another model.
    """  # noqa: DOC502
    entries: dict[str, Any] = timm_registry._model_pretrained_cfgs  # noqa: SLF001 - tests notice when it moves
    before = {name: entry for name, entry in entries.items() if name.partition(".")[0] == backbone}
    if not before:
        raise ValueError(f"backbone must be a timm model with pre-trained weights, got {backbone!r}.")
    local = {"url": "", "hf_hub_id": None, "state_dict": _read_weights(backbone, path)}
    try:
        entries.update({name: dataclasses.replace(entry, **local) for name, entry in before.items()})
        yield
    finally:
        entries.update(before)


def _read_weights(backbone: str, path: Path | str) -> dict[str, torch.Tensor]:
    """Read a file of weights and check whose they are.

    Raises:
        ValueError: If they are those of another model.
    """
    if path == "random":
        return {"nothing": torch.empty(0)}  # timm takes an empty one for none
    weights = timm.models.load_state_dict(str(existing("weights", path)))
    missing = timm.create_model(backbone, pretrained=False).state_dict().keys() - weights.keys()
    if missing:
        raise ValueError(
            f"weights: {str(path)!r} does not hold timm's {backbone}: {len(missing)} tensors such as "
            f"{min(missing)!r} are missing."
        )
    return dict(weights)


def existing(name: str, path: Path | str) -> Path:
    """Check that a file or folder is there.

    Raises:
        FileNotFoundError: If it is not; the message names the argument.

    Example:
        >>> existing("dtd_dir", "nowhere")
        Traceback (most recent call last):
            ...
        FileNotFoundError: dtd_dir: 'nowhere' does not exist. Give a local file or folder; nothing is downloaded.
    """
    if not Path(path).exists():
        raise FileNotFoundError(
            f"{name}: {str(path)!r} does not exist. Give a local file or folder; nothing is downloaded."
        )
    return Path(path)
