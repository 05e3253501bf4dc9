"""Builds a finished job's model and datamodule again, from what the board wrote down."""

from __future__ import annotations

import inspect
import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

from anomalib.data import AnomalibDataModule
from jsonargparse import ArgumentParser

import anomalib_anoseg.data  # noqa: F401 - so that its names are known, as anomalib's are
from anomalib_anoseg.board.run.adapting import adapt_data
from anomalib_anoseg.training.post_processor import SelfCalibratingPostProcessor

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_anoseg.board.run.run_folder import Row

__all__ = ["keep_order", "load_job", "load_model"]


def load_job(folder: Path, row: Row) -> tuple[Any, Any]:
    """Build a finished job's model and datamodule again.

    Args:
        folder (Path): The job's folder.
        row (Row): Its row.

    Returns:
        tuple[Any, Any]: The trained model in evaluation mode on the CPU, and the datamodule, not set up yet.
    """
    model = load_model(folder / "model.ckpt", row.model)
    return model if row.trivial else keep_order(model), _build_datamodule(folder / "job.json")


def keep_order(model: Any) -> Any:  # noqa: ANN401
    """Give a loaded model the post-processor that the board judged it with.

    A checkpoint holds the thresholds, but not the class: anomalib's own lets scores beyond the calibration's range tie.
    """
    own = SelfCalibratingPostProcessor()
    own.load_state_dict(model.post_processor.state_dict())
    model.post_processor = own.eval()
    return model


def load_model(checkpoint: Path, class_path: str) -> Any:  # noqa: ANN401
    """Load a model from Lightning's checkpoint, in evaluation mode on the CPU.

    Args:
        checkpoint (Path): The file.
        class_path (str): Module and name of its class.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"There is no checkpoint {checkpoint}; train the model, or run its job again")
    module, _, name = class_path.rpartition(".")
    model = getattr(import_module(module), name)
    return model.load_from_checkpoint(checkpoint, map_location="cpu", **_without_files(model)).eval()


def _without_files(model: type) -> dict[str, Any]:
    """Arguments that spare a constructor the files and downloads of a training: a checkpoint brings all weights."""
    if hasattr(model, "without_files"):
        return dict(model.without_files)
    is_anomalibs = model.__module__.startswith("anomalib.")
    return {"pre_trained": False} if is_anomalibs and "pre_trained" in inspect.signature(model).parameters else {}


def _build_datamodule(path: Path) -> Any:  # noqa: ANN401
    """Build a datamodule from what a job's process was told, wherever its class is.

    Raises:
        FileNotFoundError: If that is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}, which says how the data was read; run the job again")
    task = json.loads(path.read_text(encoding="utf-8"))
    container, job = task["container"], task.get("job") or {}
    data = adapt_data(container["data"], container.get("seed"), job.get("budget"))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    return parser.instantiate_classes(parser.parse_object({"data": data})).data
