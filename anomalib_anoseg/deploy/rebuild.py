"""Name the class of a trained model and load it, without the files and downloads of its training."""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar

from anomalib_anoseg.training.checkpoints import explain_error
from anomalib_anoseg.training.post_processor import SelfCalibratingPostProcessor

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["NeedsFiles", "class_path", "keep_order", "load_model"]


def class_path(found: type) -> str:
    """Name the shortest path under which a class can be imported.

    Example:
        >>> from anomalib.models import Padim
        >>> class_path(Padim)
        'anomalib.models.Padim'
    """
    for module in accumulate(found.__module__.split("."), "{}.{}".format):
        if getattr(sys.modules.get(module), found.__name__, None) is found:
            return f"{module}.{found.__name__}"
    return f"{found.__module__}.{found.__qualname__}"


class NeedsFiles:
    """A model whose constructor needs files, though a checkpoint brings all that was in them.

    Attributes:
        without_files: Arguments with which it needs none.
    """

    without_files: ClassVar[dict[str, Any]]


def load_model(checkpoint: Path, class_path: str) -> Any:  # noqa: ANN401
    """Load a model from Lightning's checkpoint, in evaluation mode on the CPU.

    Args:
        checkpoint (Path): The file.
        class_path (str): Module and name of its class.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint of this class; the message says why.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"There is no checkpoint {checkpoint}; train the model, or run its job again")
    module, _, name = class_path.rpartition(".")
    try:
        model = getattr(import_module(module), name)
        return model.load_from_checkpoint(checkpoint, map_location="cpu", **_without_files(model)).eval()
    except Exception as error:
        raise ValueError(f"{checkpoint} does not load as {class_path}: {explain_error(error)}") from error


def _without_files(model: type) -> dict[str, Any]:
    """Arguments with which a constructor needs no files and downloads: a checkpoint brings all weights."""
    if issubclass(model, NeedsFiles):
        return dict(model.without_files)
    is_anomalibs = model.__module__.startswith("anomalib.")
    return {"pre_trained": False} if is_anomalibs and "pre_trained" in inspect.signature(model).parameters else {}


def keep_order(model: Any) -> Any:  # noqa: ANN401
    """Give a loaded model a post-processor that keeps the order of scores beyond the calibration's range.

    A checkpoint holds the thresholds, but not the class, and with anomalib's own those scores would tie.
    """
    own = SelfCalibratingPostProcessor()
    own.load_state_dict(model.post_processor.state_dict())
    model.post_processor = own.eval()
    return model
