"""A clear error in place of a download."""

import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

LOCAL_HOSTS = ("localhost", "127.", "::1")


class OfflineError(Exception):
    """Code asked for the network; the message names the host."""


@contextmanager
def no_network() -> Generator[None, None, None]:
    """Raise :class:`OfflineError` if Python code asks for another machine; local connections still work.

    Example:
        >>> with no_network():
        ...     socket.create_connection(("example.org", 80))
        Traceback (most recent call last):
            ...
        anomalib_anoseg.common.offline.OfflineError: example.org was asked for, but nothing is downloaded here: ...
    """
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def check(host: Any) -> None:  # noqa: ANN401
        host = host.decode() if isinstance(host, bytes) else host
        if isinstance(host, str) and host and not host.startswith(LOCAL_HOSTS):
            raise OfflineError(f"{host} was asked for, but nothing is downloaded here: give the files to load instead.")

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
