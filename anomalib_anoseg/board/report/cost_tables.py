"""Tables of cost: of each model, and of each exported form beside its accuracy."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from anomalib_anoseg.board.report.records import FinishedJob
from anomalib_anoseg.board.report.tables import (
    DOWN,
    METRICS,
    NOTHING,
    Cell,
    Column,
    Table,
    signed,
    table_of_numbers,
)
from anomalib_anoseg.deploy.runtimes import Form

RUNTIMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
LATENCIES = ("median_ms", "p95_ms", "noisy")
ACCURACIES = ("image_AUROC", "pixel_AUROC", "pixel_AP", "pixel_IoU")
DIFFERENT = (
    "Models were measured on different categories or seeds: accuracies here compare the forms of one model, not models."
)
NOISY = "Medians of some rounds differ by more than a quarter: something else kept the machine busy."
PLAIN = "torch float32"  # what the accuracy of other forms is compared with
OF_TRAINING = {
    "epochs": Column("Epochs", "Training", digits=1),
    "steps": Column("Steps", "Training", digits=0),
    "images": Column("Images drawn", "Training", digits=0),
    "seconds": Column("Time (min)", "Training", DOWN, 1 / 60, 1),
    "cpu_seconds": Column("CPU time (min)", "Training", DOWN, 1 / 60, 1),
    "seconds_per_image": Column("Time an image (ms)", "Training", DOWN, 1e3, 1),
}
OF_MODELS = {
    "parameters": Column("Parameters (M)", "", DOWN, 1e-6, 2),
    "macs": Column("Multiply-adds an image (G)", "", DOWN, 1e-9, 2),
    **OF_TRAINING,
    "peak_memory_mb": Column("Peak memory (MiB)", "Training", DOWN, digits=0),
}


def form_name(form: str) -> str:
    """Name an exported form.

    Example:
        >>> form_name("onnxruntime FP32")
        'ONNX Runtime FP32'
    """
    runtime, _, precision = form.partition(" ")
    return f"{RUNTIMES.get(runtime, runtime)} {precision}".strip()


def models(jobs: Sequence[FinishedJob]) -> pd.DataFrame:
    """Average the cost of each model over its jobs: one row per label, with ``image_size`` and table columns."""
    records = [
        {
            "label": job.label,
            "image_size": " \N{MULTIPLICATION SIGN} ".join(map(str, job.cost.get("image_size") or [])),
            "parameters": job.cost.get("parameters") or job.row.get("parameters"),
            "macs": job.cost.get("macs"),
            "peak_memory_mb": job.row.get("peak_memory_mb"),
            **{name: job.training.get(name) for name in OF_TRAINING},
        }
        for job in jobs
    ]
    frame = pd.DataFrame(records).set_index("label")
    sizes = frame.pop("image_size").groupby(level=0).max()
    return frame.apply(pd.to_numeric).groupby(level=0, sort=False).mean().join(sizes)


def forms(jobs: Sequence[FinishedJob]) -> pd.DataFrame:
    """Average the cost and the accuracy of each exported form over the jobs that were measured.

    Returns:
        One row per label and form (``"openvino INT8"``), with columns ``label``, ``form``, ``file_mb``,
        ``peak_memory_mb``, ``median_<batch>`` and ``p95_<batch>`` in milliseconds per batch, ``noisy_<batch>`` (the
        share of jobs in which these were unstable), accuracies, and ``jobs``.
    """
    records = [record for job in jobs for record in _forms_of(job)]
    if not records:
        return pd.DataFrame(columns=["label", "form"])
    grouped = pd.DataFrame(records).set_index(["label", "form"]).astype(float).groupby(level=[0, 1], sort=False)
    return grouped.mean().assign(jobs=grouped.size()).reset_index()


def _forms_of(job: FinishedJob) -> list[dict[str, Any]]:
    records: dict[str, dict[str, Any]] = {}
    for entry in [*(job.cost.get("latency") or []), *(job.cost.get("accuracy") or [])]:
        batch, names = (f"_{entry['batch']}", LATENCIES) if "batch" in entry else ("", ACCURACIES)
        found = {f"{name.removesuffix('_ms')}{batch}": entry.get(name) for name in names}
        records.setdefault(f"{entry['runtime']} {entry['precision']}", {}).update(found)
    files, memory = job.cost.get("files_mb") or {}, job.cost.get("peak_memory_mb") or {}
    for form, record in records.items():
        runtime, _, precision = form.partition(" ")
        shared = Form(runtime, precision).file
        record |= {"file_mb": files.get(form, files.get(shared)), "peak_memory_mb": memory.get(form)}
    return [{"label": job.label, "form": form, **record} for form, record in records.items()]


def model_table(jobs: Sequence[FinishedJob], labels: Sequence[str]) -> Table:
    """Make a table of the cost of each model, one row per model; the lowest of each column is best."""
    found = models(jobs).reindex(labels)
    frame = table_of_numbers(found, OF_MODELS)
    frame.insert(0, ("", "Image size (px)"), found["image_size"].map(lambda size: Cell(size) if size else NOTHING))
    return Table("Cost of each model, mean over its jobs", frame.rename(index=Cell).rename_axis(index="Model"))


def form_table(jobs: Sequence[FinishedJob], labels: Sequence[str]) -> Table | None:
    """Make a table of the cost and accuracy of each exported form; ``None`` if none of the labels was measured."""
    found = forms([job for job in jobs if job.label in labels])
    if found.empty:
        return None
    found = found.sort_values("label", key=lambda names: names.map(labels.index), kind="stable")
    found = found.set_index(["label", "form"])
    batches = sorted(int(name.removeprefix("median_")) for name in found if name.startswith("median_"))
    columns = {"file_mb": Column("File (MB)", "", DOWN, digits=2)}
    for batch in batches:
        group = f"Latency, batch {batch} (ms)"
        columns[f"median_{batch}"] = Column("median", group, DOWN, digits=1)
        columns[f"p95_{batch}"] = Column("95th pct.", group, DOWN, digits=1)
    columns["peak_memory_mb"] = Column("Peak memory (MiB)", "", DOWN, digits=0)
    comparable = is_comparable(jobs)
    columns |= {name: METRICS[name] if comparable else replace(METRICS[name], arrow="") for name in ACCURACIES}
    frame = table_of_numbers(found, columns)
    for batch in batches:
        noisy = found[f"noisy_{batch}"].fillna(0) > 0
        _add(frame, columns[f"median_{batch}"], noisy.map({True: "noisy", False: ""}), NOISY)
    of_plain = found[found.index.get_level_values("form") == PLAIN].droplevel("form")
    for name in [name for name in ACCURACIES if columns[name].heading in frame]:
        plain = of_plain[name].reindex(found.index.get_level_values("label")).to_numpy()
        differences = (found[name] - plain).map(lambda value: signed(value) if abs(round(value, 3)) > 0 else "")
        _add(frame, columns[name], differences, "{} against PyTorch float32")
    frame = frame.rename(index=form_name, level="form").rename(index=Cell).rename_axis(index=["Model", "Form"])
    return Table("Cost and accuracy of each exported form", frame, _notes(jobs, found, comparable))


def _add(frame: pd.DataFrame, column: Column, details: pd.Series, title: str) -> None:
    """Add details to cells of a column; a noisy cell is never the best."""
    frame[column.heading] = [
        replace(cell, detail=text, title=title.format(text), best=cell.best and text != "noisy") if text else cell
        for cell, text in zip(frame[column.heading], details, strict=True)
    ]


def is_comparable(jobs: Sequence[FinishedJob]) -> bool:
    """Tell whether the cost of every model was measured on the same categories and seeds."""
    measured: dict[str, set[tuple[str, int]]] = {}
    for job in jobs:
        if job.cost:
            measured.setdefault(job.label, set()).add((job.category, job.seed))
    return len({frozenset(keys) for keys in measured.values()}) <= 1


def _notes(jobs: Sequence[FinishedJob], found: pd.DataFrame, comparable: bool) -> list[str]:
    counts = found["jobs"].groupby(level="label", sort=False).max()
    measured = ", ".join(f"{label} {count}" for label, count in counts.items())
    notes = [
        f"Means over the jobs that were measured: {measured}.",
        "Smaller figures: difference to PyTorch float32, where there is one in the third digit.",
    ]
    if any(found[name].any() for name in found if name.startswith("noisy_")):
        notes.append(f"Noisy: {NOISY[0].lower()}{NOISY[1:]}")
    if not comparable:
        notes.append(DIFFERENT)
    costs = [job.cost for job in jobs if job.cost]
    if threads := sorted({str(cost["threads"]) for cost in costs if "threads" in cost}):
        loads = [load for cost in costs for load in cost.get("load_average") or [] if load is not None]
        busy = f"; load average of the machine up to {max(loads):.1f}" if loads else ""
        cpus = ", ".join(sorted({str(cost["cpu"]) for cost in costs if cost.get("cpu")})) or "a CPU that is not named"
        notes.append(f"Latency on {cpus} with {', '.join(threads)} thread(s){busy}.")
    left_out = {(job.label, form): why for job in jobs for form, why in (job.cost.get("left_out") or {}).items()}
    return [*notes, *(f"Left out: {label}, {form_name(form)}: {why}" for (label, form), why in left_out.items())]
