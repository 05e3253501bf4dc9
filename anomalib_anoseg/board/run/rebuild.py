"""Build a finished job's model and datamodule again, from the board's files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anomalib.data import AnomalibDataModule
from jsonargparse import ArgumentParser

import anomalib_anoseg.data  # noqa: F401 - so that its names are known, as anomalib's are
from anomalib_anoseg.board.run.adapting import adapt_data
from anomalib_anoseg.common.schema import read_json
from anomalib_anoseg.deploy.rebuild import keep_order, load_model

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_anoseg.board.run.run_folder import Row

__all__ = ["load_job"]


def load_job(folder: Path, row: Row) -> tuple[Any, Any]:
    """Build the model and datamodule of a finished job again, from its folder and row.

    Returns:
        tuple[Any, Any]: The trained model in evaluation mode on the CPU, and the datamodule, not set up yet.

    Raises:
        FileNotFoundError: If the checkpoint or ``job.json`` is missing.
    """
    model = load_model(folder / "model.ckpt", row.model)
    path = folder / "job.json"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}, which says how the data was read; run the job again")
    task = read_json(path, dict[str, Any])
    container, job = task["container"], task.get("job") or {}
    data = adapt_data(container["data"], container.get("seed"), job.get("budget"))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    datamodule = parser.instantiate_classes(parser.parse_object({"data": data})).data
    return model if row.trivial else keep_order(model), datamodule
