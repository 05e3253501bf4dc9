"""Read run folders and merge them."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anomalib_anoseg.board.report.records import Collection, Cost, FinishedJob, Missing
from anomalib_anoseg.board.run.run_folder import SCHEMA, Board, Job, Row
from anomalib_anoseg.common.files import inside
from anomalib_anoseg.common.naming import tell_apart
from anomalib_anoseg.common.schema import mapping_of, read_json

NAMES = ("id", "label", "category", "seed")
ROW = mapping_of(Row, (*NAMES, "dataset", "metrics", "trivial"))
BOARD = mapping_of(Board, (), jobs=list[mapping_of(Job, NAMES)])  # type: ignore[misc]
# Settings of how images are read and which are held out, not of which images there are.
IGNORED_SETTINGS = {"category", "eval_batch_size", "num_workers", "seed"}
NOT_RUN = "not started"
OWN_LENGTH = "each model's own length"
EXCEPTION = re.compile(r"^[\w.]+(?:Error|Exception|Exit|Interrupt)\b.*", re.MULTILINE)


def collect(runs: Sequence[Path]) -> Collection:
    """Read run folders and merge them.

    A job that several folders hold counts once: the later finished one. Finished jobs that ``board.json`` does not
    name are left out, and notes say so.

    Args:
        runs: Folders that ``anomalib-anoseg board`` wrote.

    Raises:
        ValueError: If a folder is no run folder, a file cannot be read, no job has finished, or budgets differ.
    """
    if not runs:
        raise ValueError("runs is empty. Name at least one folder that `anomalib-anoseg board --out` wrote.")
    collection = Collection()
    expected: dict[str, Missing] = {}
    finished: dict[str, FinishedJob] = {}
    for folder in dict.fromkeys(Path(run) for run in runs):
        if not (folder / "board.json").is_file():
            what = "has no board.json" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
            raise ValueError(
                f"{folder} is not a run folder: it {what}. Name a folder that `anomalib-anoseg board --out` wrote."
            )
        board = read_json(folder / "board.json", BOARD, SCHEMA)
        collection.left_out |= board.get("left_out") or {}
        name = folder.name if folder.name not in collection.configs else str(folder)
        collection.configs[name] = board.get("config") or ""
        entries = board.get("jobs") or []
        for entry in entries:
            missing = _expected(folder, entry)
            if missing.id not in expected or missing.reason != NOT_RUN:
                expected[missing.id] = missing
        _add_finished(folder, {entry["id"]: entry["label"] for entry in entries}, finished, collection.notes)
    collection.expected = len(expected)
    collection.missing = [missing for key, missing in expected.items() if key not in finished]
    jobs = [finished[key] for key in expected if key in finished]
    if not jobs:
        raise ValueError(_nothing_finished(runs, collection.missing))
    _check_budgets(jobs)
    named = _name_data(_name_models(jobs, collection.notes), collection.notes)
    collection.jobs = _name_families(_once_each(named, collection.notes))
    taking_part = {job.label for job in jobs}  # left out in one folder, perhaps, and finished in another
    collection.left_out = {label: why for label, why in collection.left_out.items() if label not in taking_part}
    return collection


def _expected(folder: Path, entry: dict[str, Any]) -> Missing:
    error = inside(folder, folder, f"jobs/{entry['id']}/error.txt")
    text = error.read_text("utf-8", errors="replace").strip() if error and error.is_file() else NOT_RUN
    # Messages may have many lines: take the one that names the exception.
    reason = (EXCEPTION.findall(text) or text.splitlines() or [NOT_RUN])[-1].strip()
    data = entry.get("data_label") or entry["category"]
    return Missing(entry["id"], entry["label"], data, entry["seed"], reason)


def _add_finished(folder: Path, labels: dict[str, str], finished: dict[str, FinishedJob], notes: list[str]) -> None:
    """Add finished jobs under the present labels of their board: more models may need longer labels."""
    unnamed = []
    for path in sorted(folder.glob("jobs/*/row.json")):
        job = _read_job(path)
        key = job.row["id"]
        if key not in labels:
            unnamed.append(key)
            continue
        job = replace(job, label=labels[key])
        if key in finished:
            job = max(finished[key], job, key=lambda job: job.finished)
            notes.append(
                f"{key} is in several run folders; the one that finished last, in {job.folder.parents[1]}, counts."
            )
        finished[key] = job
    if unnamed:
        notes.append(f"{folder} holds finished jobs that its board.json does not name; left out: {', '.join(unnamed)}.")


def _read_job(path: Path) -> FinishedJob:
    row, cost = read_json(path, ROW, SCHEMA), path.with_name("cost.json")
    measured: Cost = read_json(cost, Cost, SCHEMA) if cost.is_file() else {}
    return FinishedJob(path.parent, row, row["label"], row["category"], measured)


def _nothing_finished(runs: Sequence[Path], missing: list[Missing]) -> str:
    errors = [entry for entry in missing if entry.reason != NOT_RUN]
    first = f" {errors[0].id} stopped with: {errors[0].reason}" if errors else ""
    where = ", ".join(map(str, runs))
    return f"No job in {where} has finished ({len(missing)} should exist). Run the board again: it resumes.{first}"


def _check_budgets(jobs: list[FinishedJob]) -> None:
    """Refuse to compare models that were trained with different budgets.

    Raises:
        ValueError: If budgets differ.
    """
    budgets = {budget_of(job): str(job.folder.parents[1]) for job in jobs if not job.is_trivial}
    if len(budgets) > 1:
        found = ", ".join(f"{budget} in {folder}" for budget, folder in budgets.items())
        raise ValueError(f"Budgets must not be mixed in one report: {found}. Write a report for each.")


def budget_of(job: FinishedJob) -> str:
    """Name the budget of a job's training, such as ``"600 seconds of CPU time"``."""
    budget = job.row.get("budget")
    if not budget:
        return OWN_LENGTH
    if "seconds" in budget:
        clock = "CPU" if budget.get("clock") == "cpu" else "wall"
        return f"{budget['seconds']:g} seconds of {clock} time"
    return f"{budget.get('images', 0):g} images"


def _name_models(jobs: list[FinishedJob], notes: list[str]) -> list[FinishedJob]:
    """Tell apart models that have one label but different settings."""
    settings = []
    for job in jobs:
        trainer = {f"trainer.{name}": value for name, value in (job.row.get("trainer") or {}).items()}
        known = {name: job.row.get(name) for name in ("model", "accelerator", "trivial")}
        settings.append({**known, **trainer, **job.settings})
    labels, varied = tell_apart([job.label for job in jobs], settings, default="default")
    for label, names in varied.items():
        notes.append(f"{label} stands for different settings; its rows are told apart by {', '.join(names)}.")
    return [replace(job, label=label) for job, label in zip(jobs, labels, strict=True)]


def _name_data(jobs: list[FinishedJob], notes: list[str]) -> list[FinishedJob]:
    """Name data by its label or category; only equal data share a name, because figures of a name are averaged."""
    with_dataset = len({job.row["dataset"] for job in jobs if not job.row.get("data_label")}) > 1
    names, settings = [], []
    for job in jobs:
        dataset = job.row["dataset"] if with_dataset or not job.category else ""
        names.append(str(job.row.get("data_label") or " ".join(filter(None, (dataset, job.category)))))
        data = job.row.get("data") or {}
        settings.append({name: value for name, value in data.items() if name not in IGNORED_SETTINGS})
    categories, varied = tell_apart(names, settings, default="default")
    for name, keys in varied.items():
        notes.append(
            f"{name} stands for different data, which is not averaged; told apart by {', '.join(keys)}. "
            "A label for each entry of a board's data reads better."
        )
    return [replace(job, category=category) for job, category in zip(jobs, categories, strict=True)]


def _once_each(jobs: list[FinishedJob], notes: list[str]) -> list[FinishedJob]:
    """Keep the later of two jobs of one model, category and seed, which differ in no setting.

    Raises:
        ValueError: If they are of one board, where they must be different models.
    """
    kept: dict[tuple[str, str, int], FinishedJob] = {}
    for job in jobs:
        key = (job.label, job.category, job.seed)
        first, last = sorted((kept.get(key, job), job), key=lambda job: job.finished)
        kept[key] = last
        if first is last:
            continue
        if first.folder.parent == last.folder.parent:
            raise ValueError(
                f"{first.row['id']} and {last.row['id']} of one board have equal label, category and seed, though "
                "something that is no setting of the model differs. Give their models a `label` each."
            )
        notes.append(f"{first.row['id']} and {last.row['id']} are the same job; the second, which is later, counts.")
    return list(kept.values())


def _name_families(jobs: list[FinishedJob]) -> list[FinishedJob]:
    """Let trivial models of one class, such as statistics of the image, share a row: the best of them counts."""
    classes = {job.label: str(job.row.get("model")).rpartition(".")[2] for job in jobs if job.is_trivial}
    sizes = {name: list(classes.values()).count(name) for name in classes.values()}
    named = []
    for job in jobs:
        name = classes.get(job.label, "")
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize()
        named.append(replace(job, family=f"{words} (best of {sizes[name]})" if sizes.get(name, 0) > 1 else job.label))
    return named
