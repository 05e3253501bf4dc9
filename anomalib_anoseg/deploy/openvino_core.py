"""One OpenVINO for a whole process."""

from functools import cache
from importlib import import_module
from typing import Any

__all__ = ["openvino_core"]


def openvino_core() -> Any:  # noqa: ANN401 - OpenVINO is imported here, and need not be installed
    """Load OpenVINO, once.

    Each core gives the thread a stack for signals. Of two that are dropped in the order in which they were made, the
    second leaves the stack of the first, which is gone: the next signal that has a handler, such as Ctrl-C, would end
    the process without a word. If OpenVINO is not installed, this is a ``ModuleNotFoundError``.
    """
    return _load(import_module("openvino"))


@cache
def _load(openvino: Any) -> Any:  # noqa: ANN401
    return openvino.Core()
