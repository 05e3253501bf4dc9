"""Names of the data in a report: equal ones for equal data alone, because figures of one name are averaged."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from anomalib_anoseg.board.report.records import Job

# What says how images are read or which are held out, but not which images there are.
NO_MATTER = {"category", "eval_batch_size", "num_workers", "seed"}


def name_data(jobs: Sequence[Job], notes: list[str]) -> list[Job]:
    """Name the data of jobs by its label or its category, and by what tells it apart from data of the same name.

    Args:
        jobs: The jobs.
        notes: Gets a line for each name that stands for different data.

    Returns:
        list[Job]: The same jobs with names in ``category``.
    """
    datasets = {job.row["dataset"] for job in jobs if not job.row.get("data_label")}
    names = [_name(job, len(datasets) > 1) for job in jobs]
    variants: dict[str, dict[str, dict[str, Any]]] = {}
    for name, job in zip(names, jobs, strict=True):
        variants.setdefault(name, {})[_variant(job)] = _settings(job)
    suffixes: dict[tuple[str, str], str] = {}
    for name, settings in variants.items():
        keys = sorted({key for one in settings.values() for key in one})
        differing = [key for key in keys if len({repr(one.get(key)) for one in settings.values()}) > 1]
        for variant, one in settings.items():
            suffix = ", ".join(f"{key}={one.get(key, 'default')}" for key in differing)
            suffixes[name, variant] = f" ({suffix})" if suffix else ""
        if differing:
            notes.append(
                f"{name} stands for different data, which is not averaged; told apart by {', '.join(differing)}. "
                "A label for each entry of a board's data reads better."
            )
    return [replace(job, category=name + suffixes[name, _variant(job)]) for name, job in zip(names, jobs, strict=True)]


def _name(job: Job, with_dataset: bool) -> str:
    if job.row.get("data_label"):
        return str(job.row["data_label"])
    dataset = job.row["dataset"] if with_dataset or not job.category else ""
    return " ".join(filter(None, (dataset, job.category)))


def _settings(job: Job) -> dict[str, Any]:
    return {name: value for name, value in (job.row.get("data") or {}).items() if name not in NO_MATTER}


def _variant(job: Job) -> str:
    return json.dumps(_settings(job), sort_keys=True, default=str)
