"""Where the figures of a report come from: protocol, settings, hardware, versions and time."""

from collections.abc import Iterable, Sequence
from datetime import timezone
from typing import Any

import pandas as pd

from anomalib_anoseg.board.report.collect import OWN_LENGTH, budget_of
from anomalib_anoseg.board.report.records import Collection, FinishedJob
from anomalib_anoseg.board.report.tables import NOTHING, Cell, Table

FIELDS = {
    "commit": "Commit",
    "python": "Python",
    "platform": "Platform",
    "cpu": "CPU",
    "cores": "CPU cores",
    "threads": "Threads",
    "gpu": "GPU",
    "accelerator": "Accelerator",
    "precision": "Precision",
}
HARDWARE = ("platform", "cpu", "cores", "threads", "gpu", "accelerator")
CALIBRATED_ON = {
    "forged on held-out images": (
        "Thresholds were chosen on defects forged on good images held out from training; no test image was looked at."
    ),
    "forged on training images": "Thresholds were chosen on defects forged on training images.",
    "anomalous images": (
        "Thresholds were chosen on validation images with real defects. If these are test images, as anomalib's "
        "MVTecAD takes them unless told otherwise (val_split_mode), F1 and IoU flatter every model."
    ),
}
UNSTATED = "The rows do not say where thresholds came from."


def facts(collection: Collection) -> dict[str, list[str]]:
    """List what produced the figures, by term; several values where jobs differ."""
    jobs = collection.jobs
    versions: dict[str, list[str]] = {}
    for job in jobs:
        for package, version in (job.provenance.get("versions") or {}).items():
            versions.setdefault(package, []).append(str(version))
    found = {
        "Run folders": _distinct(job.folder.parents[1].name for job in jobs),
        "Seeds": [", ".join(map(str, collection.seeds))],
        **{title: _values(jobs, name) for name, title in FIELDS.items()},
        "Load average in training": _loads(jobs),
        "Versions": [f"{package} {' and '.join(_distinct(known))}" for package, known in sorted(versions.items())],
        "Time": _time(jobs),
    }
    return {title: values for title, values in found.items() if values}


def protocol(collection: Collection) -> list[str]:
    """Say in sentences how the figures were made, as far as jobs and configurations tell."""
    models = [job for job in collection.jobs if not job.is_trivial]
    budget = budget_of(models[0]) if models else OWN_LENGTH
    sentences = [
        "Each model was trained for its own length."
        if budget == OWN_LENGTH
        else f"Every model had the same budget of training: {budget}."
    ]
    if "seconds" in budget:
        sentences.append(
            "Learning rates that follow the time, as AnoSeg's do, fell to the end of the budget; those that follow the "
            "number of epochs, as DRAEM's do, fell only if the training got that far."
        )
    if short := short_of_an_epoch(models):
        sentences.append(f"Less than one epoch, so that some training images were never seen: {', '.join(short)}.")
    if _held_out_differently(models):
        sentences.append("Different images were held out for the thresholds of different models.")
    sentences += [f"{label} takes no part: {why}" for label, why in collection.left_out.items()]
    sentences += [CALIBRATED_ON.get(source, UNSTATED) for source in _values(models, "calibrated_on") or [""]]
    if len(_values(models, "precision")) > 1:
        sentences.append("Models were trained in different precisions, and all of them tested in float32.")
    if different := [FIELDS[name] for name in HARDWARE if len(_values(models, name)) > 1]:
        sentences.append(f"Jobs ran on different hardware ({', '.join(different)}): times and memory do not compare.")
    if any(job.provenance.get("dirty") for job in models):
        sentences.append(
            "Some jobs ran from a working tree with uncommitted changes: the commit alone does not repeat them."
        )
    return sentences


def short_of_an_epoch(jobs: Sequence[FinishedJob]) -> list[str]:
    """Name the models of which a job drew fewer images than there are to train with."""
    epochs = [(job.label, job.training.get("epochs")) for job in jobs if not job.is_trivial]
    return _distinct(label for label, seen in epochs if seen is not None and seen < 1)


def _held_out_differently(jobs: Sequence[FinishedJob]) -> bool:
    """Tell whether models of equal data and seed had different held-out images."""
    found: dict[tuple[str, int], set[str]] = {}
    for job in jobs:
        if digest := (job.provenance.get("held_out") or {}).get("digest"):
            found.setdefault((job.category, job.seed), set()).add(digest)
    return any(len(digests) > 1 for digests in found.values())


def settings_table(jobs: Sequence[FinishedJob]) -> Table:
    """List the settings of each model as its board gives them, one row per model."""
    rows = {}
    for job in jobs:
        text = ", ".join(f"{name}={value}" for name, value in job.settings.items()) or "defaults"
        rows[Cell(job.label, trivial=job.is_trivial)] = [Cell(str(job.row.get("model") or NOTHING.text)), Cell(text)]
    columns = pd.MultiIndex.from_tuples([("", "Class"), ("", "Settings")])
    frame = pd.DataFrame(list(rows.values()), pd.Index(list(rows), name="Model"), columns)
    return Table("Settings of each model", frame)


def _values(jobs: Sequence[FinishedJob], name: str) -> list[str]:
    """List the different values of an entry of the jobs' provenance."""
    values = [(job.provenance.get(name), job.provenance.get("dirty")) for job in jobs]
    changed = " with uncommitted changes" if name == "commit" else ""
    return _distinct(f"{value}{changed if dirty else ''}" for value, dirty in values if value not in {None, ""})


def _distinct(values: Iterable[Any]) -> list[str]:
    return [str(value) for value in dict.fromkeys(values)]


def _loads(jobs: Sequence[FinishedJob]) -> list[str]:
    """Give the range of the load average while models trained, their own processes included."""
    found = [job.training.get(name) for job in jobs if not job.is_trivial for name in ("load_begin", "load_end")]
    loads = [load for load in found if load is not None]
    return [f"{min(loads):.1f} to {max(loads):.1f}"] if loads else []


def _time(jobs: Sequence[FinishedJob]) -> list[str]:
    starts, ends = (
        [job.provenance[name].astimezone(timezone.utc) for job in jobs if job.provenance.get(name)]
        for name in ("started", "finished")
    )
    seconds = sum(float(job.provenance.get("wall_seconds") or 0) for job in jobs)
    span = [f"{min(starts):%Y-%m-%d %H:%M} to {max(ends):%Y-%m-%d %H:%M} UTC"] if starts and ends else []
    return [*span, f"{seconds / 60:,.1f} minutes in all jobs"] if seconds else span
