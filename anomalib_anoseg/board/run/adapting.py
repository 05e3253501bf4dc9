"""Adapt the user's models and data, so that all jobs of a board are alike."""

import hashlib
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule

from anomalib_anoseg.board.run.run_folder import Budget

HELD_OUT_REMEDY = "Set val_split_mode: from_train and a val_split_ratio in benchmark.data.init_args."


def adapt(container: dict[str, Any], budget: Budget | None) -> dict[str, Any]:
    """Give a job's seed to model and data where they take one and were given none.

    The data's seed decides which images are held out for thresholds; without one these would depend on the random
    numbers that a model's construction draws, and differ between models. A budget overrides a model's own
    ``max_epochs``. With a budget of CPU time the training process reads its images itself.

    Args:
        container: The job's part of the grid, which stays unchanged.
        budget: The job's budget.
    """
    model, seed = container["model"], container["seed"]
    settings = dict(model.get("init_args") or {})
    if "seed" in _arguments(model["class_path"], "anomalib.models"):
        settings.setdefault("seed", seed)
    if budget is not None:
        settings.pop("max_epochs", None)
    return container | {"model": model | {"init_args": settings}, "data": adapt_data(container["data"], seed, budget)}


def adapt_data(data: dict[str, Any], seed: int | None, budget: Budget | None) -> dict[str, Any]:
    """Do the data's part of :func:`adapt`: ``class_path`` and ``init_args``, adapted."""
    settings, arguments = dict(data.get("init_args") or {}), _arguments(data["class_path"], "anomalib.data")
    if "seed" in arguments and arguments["seed"].default is None and settings.get("seed") is None:
        settings["seed"] = seed
    if (budget or {}).get("clock") == "cpu" and "num_workers" in arguments:
        settings["num_workers"] = 0
    return {"class_path": data["class_path"], "init_args": settings}


def _arguments(path: str, host: str) -> dict[str, inspect.Parameter]:
    """Arguments of a class, by name or full path; none if there is no such class, which its job will report."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module or host), name, None)
    except ImportError:
        return {}
    return {} if found is None else dict(inspect.signature(found).parameters)


def check_held_out(datamodule: AnomalibDataModule) -> dict[str, Any]:
    """Check that there are held-out images for thresholds, and that none is a test image.

    Args:
        datamodule: The data, set up.

    Returns:
        dict[str, Any]: ``images`` and ``anomalous``, the number of each, and a ``digest`` of their names, which is
        equal where the same images are held out.

    Raises:
        ValueError: If there are none, or a test image is among them.
    """
    held_out = getattr(datamodule, "val_data", None)
    if not held_out:
        raise ValueError(f"The data has no held-out images to find thresholds with. {HELD_OUT_REMEDY}")
    samples = held_out.samples
    paths = [str(path) for path in samples["image_path"]]
    tested = set(map(str, datamodule.test_data.samples["image_path"])).intersection(paths)
    if tested:
        raise ValueError(
            f"{len(tested)} of the {len(paths)} held-out images, with which thresholds are found, are test images, "
            f"such as {min(tested)}. {HELD_OUT_REMEDY}"
        )
    names = sorted("/".join(Path(path).parts[-3:]) for path in paths)
    return {
        "images": len(paths),
        "anomalous": int((samples["label_index"] == 1).sum()),
        "digest": hashlib.sha256("\n".join(names).encode()).hexdigest()[:8],
    }
