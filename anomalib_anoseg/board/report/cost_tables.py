"""Tables of cost: of each model, and of each exported form beside its accuracy."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from anomalib_anoseg.board.report.records import Job
from anomalib_anoseg.board.report.tables import DOWN, METRICS, NOTHING, UP, Cell, Column, Row, Table, signed, span

RUNTIMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
ACCURACIES = ("image_AUROC", "pixel_AUROC", "pixel_AP", "pixel_IoU")
DIFFERENT = (
    "Models were measured on different categories or seeds: accuracies here compare the forms of one model, not models."
)
NOISY = "Medians of some rounds differ by more than a quarter: something else kept the machine busy."
TIMES = " \N{MULTIPLICATION SIGN} "
PLAIN = "torch float32"  # what the accuracy of other forms is compared with


def form_name(form: str) -> str:
    """Name an exported form.

    Example:
        >>> form_name("onnxruntime FP32")
        'ONNX Runtime FP32'
    """
    runtime, _, precision = form.partition(" ")
    return f"{RUNTIMES.get(runtime, runtime)} {precision}".strip()


def models(jobs: Sequence[Job]) -> pd.DataFrame:
    """Average the cost of each model over its jobs.

    Returns:
        One row a label; columns ``parameters``, ``macs``, ``epochs``, ``steps``, ``images``, ``seconds``,
        ``cpu_seconds``, ``seconds_per_image``, ``peak_memory_mb``, ``trivial`` and ``image_size``.
    """
    records = []
    for job in jobs:
        cost, training = job.cost or {}, job.row.get("training") or {}
        names = ("epochs", "steps", "images", "seconds", "cpu_seconds", "seconds_per_image")
        records.append({
            "label": job.label,
            "trivial": job.is_trivial,
            "image_size": TIMES.join(map(str, cost.get("image_size") or [])),
            "parameters": cost.get("parameters") or job.row.get("parameters"),
            "macs": cost.get("macs"),
            "peak_memory_mb": job.row.get("peak_memory_mb"),
            **{name: training.get(name) for name in names},
        })
    frame = pd.DataFrame(records)
    texts = ["label", "trivial", "image_size"]
    numbers = frame.drop(columns=texts).apply(pd.to_numeric)
    means = numbers.groupby(frame["label"], sort=False).mean()
    return means.join(frame.groupby("label")[["trivial", "image_size"]].max())


def forms(jobs: Sequence[Job]) -> pd.DataFrame:
    """Average the cost and the accuracy of each exported form over the jobs that were measured.

    Returns:
        One row a label and form (``"openvino INT8"``), with columns ``label``, ``form``, ``file_mb``,
        ``peak_memory_mb``, ``median_<batch>`` and ``p95_<batch>`` in milliseconds a batch, ``noisy_<batch>`` (the share
        of jobs in which these went up and down), accuracies, ``images`` (test
        images of all jobs) and ``jobs``.
    """
    records = [record for job in jobs if job.cost for record in _forms_of(job.label, job.cost)]
    if not records:
        return pd.DataFrame(columns=["label", "form"])
    grouped = pd.DataFrame(records).groupby(["label", "form"], sort=False)
    frame = grouped.mean(numeric_only=True)
    if "images" in frame:
        frame["images"] = grouped["images"].sum()
    return frame.assign(jobs=grouped.size()).reset_index()


def _forms_of(label: str, cost: dict[str, Any]) -> list[dict[str, Any]]:
    records: dict[str, dict[str, Any]] = {}
    for entry in cost.get("latency") or []:
        record = records.setdefault(_form(entry), {})
        record[f"median_{entry['batch']}"] = entry.get("median_ms")
        record[f"p95_{entry['batch']}"] = entry.get("p95_ms")
        record[f"noisy_{entry['batch']}"] = entry.get("noisy", False)
    for entry in cost.get("accuracy") or []:
        records.setdefault(_form(entry), {}).update({name: entry.get(name) for name in (*ACCURACIES, "images")})
    for form, record in records.items():
        record["file_mb"] = _file_of(form, cost.get("files_mb") or {})
        record["peak_memory_mb"] = (cost.get("peak_memory_mb") or {}).get(form)
    return [{"label": label, "form": form, **_as_numbers(record)} for form, record in records.items()]


def _as_numbers(record: dict[str, Any]) -> dict[str, float]:
    return {name: float("nan") if value is None else float(value) for name, value in record.items()}


def _form(entry: dict[str, Any]) -> str:
    return f"{entry['runtime']} {entry['precision']}"


def _file_of(form: str, files: dict[str, float]) -> float | None:
    name = {"torch": "torch", "onnxruntime": "onnx"}.get(form.partition(" ")[0], form)
    return files.get(form, files.get(name))


def model_table(jobs: Sequence[Job], labels: Sequence[str]) -> Table:
    """Cost of each model, a row a model; the least of each column is best."""
    frame = models(jobs)
    frame = frame[~frame["trivial"].astype(bool)]
    columns = {
        "parameters": (Column("Parameters (M)", arrow=DOWN), 1e-6, 2),
        "macs": (Column("Multiply-adds an image (G)", arrow=DOWN), 1e-9, 2),
        "epochs": (Column("Epochs", "Training"), 1, 1),
        "steps": (Column("Steps", "Training"), 1, 0),
        "images": (Column("Images drawn", "Training"), 1, 0),
        "seconds": (Column("Time (min)", "Training", DOWN), 1 / 60, 1),
        "cpu_seconds": (Column("CPU time (min)", "Training", DOWN), 1 / 60, 1),
        "seconds_per_image": (Column("Time an image (ms)", "Training", DOWN), 1e3, 1),
        "peak_memory_mb": (Column("Peak memory (MiB)", "Training", DOWN), 1, 0),
    }
    shown = {name: spec for name, spec in columns.items() if frame[name].notna().any()}
    rows = []
    for label in [label for label in labels if label in frame.index]:
        cells = [_cost(frame[name], label, *spec) for name, spec in shown.items()]
        size = Cell(frame["image_size"][label] or NOTHING.text)
        rows.append(Row([Cell(label, name=True), size, *cells]))
    headings = [Column("Model"), Column("Image size (px)"), *(spec[0] for spec in shown.values())]
    return Table("Cost of each model, mean over its jobs", headings, rows)


def form_table(jobs: Sequence[Job], labels: Sequence[str]) -> Table | None:
    """Cost and accuracy of each exported form, a row a form; ``None`` if no cost has been measured."""
    frame = forms(jobs)
    if frame.empty:
        return None
    columns = {"file_mb": (Column("File (MB)", arrow=DOWN), 2)}
    for batch in sorted(int(name.removeprefix("median_")) for name in frame if name.startswith("median_")):
        group = f"Latency, batch {batch} (ms)"
        columns[f"median_{batch}"] = (Column("median", group, DOWN), 1)
        columns[f"p95_{batch}"] = (Column("95th pct.", group, DOWN), 1)
    columns["peak_memory_mb"] = (Column("Peak memory (MiB)", arrow=DOWN), 0)
    columns |= {metric: (METRICS[metric], 3) for metric in ACCURACIES}
    shown = {name: spec for name, spec in columns.items() if name in frame and frame[name].notna().any()}
    if not is_comparable(jobs):
        shown = {
            name: (replace(c, arrow="") if name in ACCURACIES else c, digits) for name, (c, digits) in shown.items()
        }
    rows: list[Row] = []
    for label in labels:
        own = frame[frame["label"] == label]
        lines = [Row([Cell(form_name(own["form"][i]), name=True), *_form_cells(frame, i, shown)]) for i in own.index]
        rows += span(label, lines) if lines else []
    headings = [Column("Model"), Column("Form"), *(spec[0] for spec in shown.values())]
    return Table("Cost and accuracy of each exported form", headings, rows, _notes(jobs, frame))


def is_comparable(jobs: Sequence[Job]) -> bool:
    """Tell whether the cost of every model was measured on the same categories and seeds."""
    measured: dict[str, set[tuple[str, int]]] = {}
    for job in jobs:
        if job.cost:
            measured.setdefault(job.label, set()).add((job.category, job.seed))
    return len({frozenset(keys) for keys in measured.values()}) <= 1


def _form_cells(frame: pd.DataFrame, index: Any, shown: dict[str, tuple[Column, int]]) -> list[Cell]:  # noqa: ANN401
    plain = frame[(frame["label"] == frame["label"][index]) & (frame["form"] == PLAIN)]
    cells = []
    for name, (column, digits) in shown.items():
        cell = _cost(frame[name], index, column, 1, digits)
        if frame.get(name.replace("median", "noisy"), pd.Series(dtype=float)).get(index, 0) and "median" in name:
            cell = replace(cell, detail="noisy", best=False, title=NOISY)
        is_compared = name in ACCURACIES and len(plain) and index not in plain.index and cell is not NOTHING
        if is_compared and pd.notna(plain[name].iloc[0]):
            difference = signed(frame[name][index] - plain[name].iloc[0])
            if float(difference[1:]):
                cell = Cell(cell.text, difference, cell.best, title=f"{difference} against PyTorch float32")
        cells.append(cell)
    return cells


def _notes(jobs: Sequence[Job], frame: pd.DataFrame) -> list[str]:
    counts = frame.groupby("label", sort=False)["jobs"].max()
    measured = ", ".join(f"{label} {count}" for label, count in counts.items())
    notes = [
        f"Means over the jobs that were measured: {measured}.",
        "Smaller figures: difference to PyTorch float32, where there is one in the third digit.",
    ]
    if any(frame[name].any() for name in frame if name.startswith("noisy_")):
        notes.append(f"Noisy: {NOISY[0].lower()}{NOISY[1:]}")
    if not is_comparable(jobs):
        notes.append(DIFFERENT)
    costs = [job.cost for job in jobs if job.cost]
    if threads := sorted({str(cost["threads"]) for cost in costs if "threads" in cost}):
        loads = [load for cost in costs for load in cost.get("load_average") or []]
        busy = f"; load average of the machine up to {max(loads):.1f}" if loads else ""
        cpus = ", ".join(sorted({str(cost["cpu"]) for cost in costs if cost.get("cpu")})) or "a CPU that is not named"
        notes.append(f"Latency on {cpus} with {', '.join(threads)} thread(s){busy}.")
    left_out = {
        (job.label, form): why for job in jobs if job.cost for form, why in (job.cost.get("left_out") or {}).items()
    }
    notes += [f"Left out: {label}, {form_name(form)}: {why}" for (label, form), why in left_out.items()]
    return notes


def _cost(values: pd.Series, key: Any, column: Column, scale: float, digits: int) -> Cell:  # noqa: ANN401
    value = values[key]
    if pd.isna(value):
        return NOTHING
    best = values.max() if column.arrow == UP else values.min()
    is_best = bool(column.arrow) and len(values) > 1 and round(value * scale, digits) == round(best * scale, digits)
    return Cell(f"{value * scale:,.{digits}f}", best=is_best)
