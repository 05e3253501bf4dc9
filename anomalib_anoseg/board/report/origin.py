"""Where the figures of a report come from: protocol, settings, hardware, versions and time."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from anomalib_anoseg.board.report.collect import OWN_LENGTH, budget_of
from anomalib_anoseg.board.report.records import Collection, Job
from anomalib_anoseg.board.report.tables import NOTHING, Cell, Column, Row, Table

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


def facts(collection: Collection) -> list[tuple[str, list[str]]]:
    """List what produced the figures, as pairs of a term and its values; more than one if jobs differ."""
    records = [_provenance(job) for job in collection.jobs]
    found = [("Run folders", list(dict.fromkeys(str(job.folder.parents[1].name) for job in collection.jobs)))]
    found.append(("Seeds", [", ".join(map(str, collection.seeds))]))
    for name, title in FIELDS.items():
        found.append((title, _distinct(_field(record, name) for record in records)))
    versions: dict[str, dict[str, None]] = {}
    for record in records:
        for package, version in (record.get("versions") or {}).items():
            versions.setdefault(package, {})[str(version)] = None
    listed = [f"{package} {' and '.join(known)}" for package, known in sorted(versions.items())]
    found += [("Load average in training", _loads(collection.jobs)), ("Versions", listed), ("Time", _time(records))]
    return [(title, values) for title, values in found if values]


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
    if _held_out(models):
        sentences.append("Different images were held out for the thresholds of different models.")
    sentences += [f"{label} takes no part: {why}" for label, why in collection.left_out.items()]
    records = [_provenance(job) for job in models]
    sources = _distinct(_field(record, "calibrated_on") for record in records)
    sentences += [CALIBRATED_ON.get(source, UNSTATED) for source in sources or [""]]
    if len(_distinct(_field(record, "precision") for record in records)) > 1:
        sentences.append("Models were trained in different precisions, and all of them tested in float32.")
    different = [FIELDS[name] for name in HARDWARE if len(_distinct(_field(record, name) for record in records)) > 1]
    if different:
        sentences.append(f"Jobs ran on different hardware ({', '.join(different)}): times and memory do not compare.")
    if any(record.get("dirty") for record in records):
        sentences.append(
            "Some jobs ran from a working tree with uncommitted changes: the commit alone does not repeat them."
        )
    return sentences


def short_of_an_epoch(jobs: Sequence[Job]) -> list[str]:
    """Name the models of which a job drew fewer images than there are to train with."""
    epochs = [(job.label, (job.row.get("training") or {}).get("epochs")) for job in jobs if not job.is_trivial]
    return _distinct(label for label, seen in epochs if seen is not None and seen < 1)


def _held_out(jobs: Sequence[Job]) -> set[tuple[str, ...]]:
    """Find the sets of held-out images of each data and seed, of which all models should have had the same."""
    found: dict[tuple[str, int], set[str]] = {}
    for job in jobs:
        digest = (_provenance(job).get("held_out") or {}).get("digest")
        found.setdefault((job.category, job.seed), set()).update([digest] if digest else [])
    return {tuple(sorted(digests)) for digests in found.values() if len(digests) > 1}


def settings_table(jobs: Sequence[Job]) -> Table:
    """List the settings of each model as its board gives them, a row a model."""
    rows: dict[str, Row] = {}
    for job in jobs:
        given = {name: value for name, value in (job.row.get("settings") or {}).items() if name != "seed"}
        text = ", ".join(f"{name}={value}" for name, value in given.items()) or "defaults"
        path = Cell(str(job.row.get("model") or NOTHING.text), name=True)
        rows[job.label] = Row([Cell(job.label, name=True), path, Cell(text, name=True)], job.is_trivial)
    return Table("Settings of each model", [Column("Model"), Column("Class"), Column("Settings")], list(rows.values()))


def _provenance(job: Job) -> dict[str, Any]:
    return {"accelerator": job.row.get("accelerator"), **(job.row.get("provenance") or {})}


def _field(record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    if value in {None, ""}:
        return ""
    return f"{value} with uncommitted changes" if name == "commit" and record.get("dirty") else str(value)


def _distinct(values: Iterable[str]) -> list[str]:
    return [value for value in dict.fromkeys(values) if value]


def _loads(jobs: Sequence[Job]) -> list[str]:
    """Say how many processes wanted to run while models trained, theirs among them."""
    training = [job.row.get("training") or {} for job in jobs if not job.is_trivial]
    loads = [entry[name] for entry in training for name in ("load_begin", "load_end") if entry.get(name) is not None]
    return [f"{min(loads):.1f} to {max(loads):.1f}"] if loads else []


def _time(records: Sequence[dict[str, Any]]) -> list[str]:
    starts = [pd.to_datetime(record["started"], utc=True) for record in records if record.get("started")]
    ends = [pd.to_datetime(record["finished"], utc=True) for record in records if record.get("finished")]
    seconds = sum(float(record.get("wall_seconds") or 0) for record in records)
    span = [f"{min(starts):%Y-%m-%d %H:%M} to {max(ends):%Y-%m-%d %H:%M} UTC"] if starts and ends else []
    return [*span, f"{seconds / 60:,.1f} minutes in all jobs"] if seconds else span
