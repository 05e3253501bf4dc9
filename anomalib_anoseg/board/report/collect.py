"""What a report is made of: the finished and the missing jobs of one or more run folders."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anomalib_anoseg.board.report.data_names import name_data
from anomalib_anoseg.board.report.records import Collection, Job, Missing
from anomalib_anoseg.board.run.run_folder import read_json

REQUIRED = ("id", "label", "dataset", "category", "seed", "metrics", "trivial")


def collect(runs: Sequence[Path]) -> Collection:
    """Read run folders and put them together.

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
    finished: dict[str, Job] = {}
    for folder in dict.fromkeys(Path(run) for run in runs):
        if not (folder / "board.json").is_file():
            raise ValueError(_not_a_run_folder(folder))
        board = read_json(folder / "board.json")
        collection.left_out |= board.get("left_out") or {}
        collection.configs[_unique_name(folder, collection.configs)] = str(board.get("config", ""))
        for entry in board.get("jobs", []):
            missing = _expected(folder, entry)
            if missing.id not in expected or missing.reason != NOT_RUN:
                expected[missing.id] = missing
        labels = {entry["id"]: str(entry["label"]) for entry in board.get("jobs", [])}
        _add_finished(folder, labels, finished, collection.notes)
    collection.expected = len(expected)
    collection.missing = [missing for key, missing in expected.items() if key not in finished]
    jobs = [finished[key] for key in expected if key in finished]
    if not jobs:
        raise ValueError(_nothing_finished(runs, collection.missing))
    _check_budgets(jobs)
    named = name_data(_name_models(jobs, collection.notes), collection.notes)
    collection.jobs = _name_families(_once_each(named, collection.notes))
    taking_part = {job.label for job in jobs}  # left out in one folder, perhaps, and finished in another
    collection.left_out = {label: why for label, why in collection.left_out.items() if label not in taking_part}
    return collection


def _not_a_run_folder(folder: Path) -> str:
    what = "has no board.json" if folder.is_dir() else "does not exist" if not folder.exists() else "is a file"
    return f"{folder} is not a run folder: it {what}. Name a folder that `anomalib-anoseg board --out` wrote."


NOT_RUN = "not started"
EXCEPTION = re.compile(r"^[\w.]+(?:Error|Exception|Exit|Interrupt)\b.*", re.MULTILINE)


def _expected(folder: Path, entry: dict[str, Any]) -> Missing:
    error = folder / "jobs" / entry["id"] / "error.txt"
    text = error.read_text(encoding="utf-8", errors="replace").strip() if error.is_file() else NOT_RUN
    # Messages may have many lines: the one that names the exception is the telling one.
    reason = (EXCEPTION.findall(text) or text.splitlines() or [NOT_RUN])[-1].strip()
    data = entry.get("data_label") or entry["category"]
    return Missing(entry["id"], str(entry["label"]), str(data), int(entry["seed"]), reason)


def _add_finished(folder: Path, labels: dict[str, str], finished: dict[str, Job], notes: list[str]) -> None:
    """Add finished jobs under the labels that their board gives them now: more models may call for longer ones."""
    unnamed = []
    for path in sorted(folder.glob("jobs/*/row.json")):
        job = _read_job(path)
        key = job.row["id"]
        if key not in labels:
            unnamed.append(key)
            continue
        job = replace(job, label=labels[key])
        if key not in finished:
            finished[key] = job
        else:
            kept = max(finished[key], job, key=lambda job: job.finished)
            notes.append(
                f"{key} is in several run folders; the one that finished last, in {kept.folder.parents[1]}, counts."
            )
            finished[key] = kept
    if unnamed:
        notes.append(f"{folder} holds finished jobs that its board.json does not name; left out: {', '.join(unnamed)}.")


def _read_job(path: Path) -> Job:
    row = read_json(path)
    absent = [name for name in REQUIRED if name not in row]
    if absent:
        raise ValueError(f"{path} lacks {', '.join(absent)}. Remove it and run its job again.")
    cost = path.with_name("cost.json")
    return Job(
        folder=path.parent,
        row=row,
        label=str(row["label"]),
        category=str(row["category"]),
        cost=read_json(cost) if cost.is_file() else None,
    )


def _nothing_finished(runs: Iterable[Path], missing: list[Missing]) -> str:
    errors = [entry for entry in missing if entry.reason != NOT_RUN]
    first = f" {errors[0].id} stopped with: {errors[0].reason}" if errors else ""
    where = ", ".join(map(str, runs))
    return f"No job in {where} has finished ({len(missing)} should exist). Run the board again: it resumes.{first}"


def _check_budgets(jobs: list[Job]) -> None:
    """Refuse to put figures of an equal wall time beside figures of published lengths.

    Raises:
        ValueError: If budgets differ.
    """
    budgets = {budget_of(job): str(job.folder.parents[1]) for job in jobs if not job.is_trivial}
    if len(budgets) > 1:
        found = ", ".join(f"{budget} in {folder}" for budget, folder in budgets.items())
        raise ValueError(f"Budgets must not be mixed in one report: {found}. Write a report for each.")


OWN_LENGTH = "each model's own length"


def budget_of(job: Job) -> str:
    """Name the budget of a job's training, such as ``"600 seconds of CPU time"``."""
    budget = job.row.get("budget")
    if not budget:
        return OWN_LENGTH
    if "seconds" in budget:
        clock = "CPU" if budget.get("clock") == "cpu" else "wall"
        return f"{budget['seconds']:g} seconds of {clock} time"
    return f"{budget['images']:g} images"


def _name_models(jobs: list[Job], notes: list[str]) -> list[Job]:
    """Tell models apart that boards call alike though their settings differ."""
    variants: dict[str, dict[str, dict[str, Any]]] = {}
    for job in jobs:
        variants.setdefault(job.label, {})[_variant(job)] = _settings(job)
    suffixes: dict[tuple[str, str], str] = {}
    for label, settings in variants.items():
        names = sorted({name for one in settings.values() for name in one})
        differing = [name for name in names if len({repr(one.get(name)) for one in settings.values()}) > 1]
        for variant, one in settings.items():
            suffix = ", ".join(f"{name}={one.get(name, 'default')}" for name in differing)
            suffixes[label, variant] = f" ({suffix})" if suffix else ""
        if differing:
            notes.append(f"{label} stands for different settings; its rows are told apart by {', '.join(differing)}.")
    return [replace(job, label=job.label + suffixes[job.label, _variant(job)]) for job in jobs]


def _settings(job: Job) -> dict[str, Any]:
    settings = {name: value for name, value in (job.row.get("settings") or {}).items() if name != "seed"}
    trainer = {f"trainer.{name}": value for name, value in (job.row.get("trainer") or {}).items()}
    return {"model": job.row.get("model"), "accelerator": job.row.get("accelerator"), **trainer, **settings}


def _variant(job: Job) -> str:
    return json.dumps(_settings(job), sort_keys=True, default=str)


def _once_each(jobs: list[Job], notes: list[str]) -> list[Job]:
    """Keep the later of two jobs of one model, category and seed, which differ only in what is no setting.

    Raises:
        ValueError: If they are of one board, where they stand for different models.
    """
    kept: dict[tuple[str, str, int], Job] = {}
    for job in jobs:
        key = (job.label, job.category, job.seed)
        if key in kept:
            first, job = sorted((kept[key], job), key=lambda job: job.finished)  # noqa: PLW2901
            if first.folder.parent == job.folder.parent:
                raise ValueError(
                    f"{first.row['id']} and {job.row['id']} of one board have equal label, category and seed, though "
                    "something that is no setting of the model differs. Give their models a `label` each."
                )
            notes.append(
                f"{first.row['id']} and {job.row['id']} are the same job; {job.row['id']}, the later one, counts."
            )
        kept[key] = job
    return list(kept.values())


def _name_families(jobs: list[Job]) -> list[Job]:
    """Let trivial models of one class, such as statistics of the image, share a row: the best of them counts."""
    classes = {job.label: str(job.row.get("model")).rpartition(".")[2] for job in jobs if job.is_trivial}
    sizes = {name: list(classes.values()).count(name) for name in classes.values()}
    named = []
    for job in jobs:
        name = classes.get(job.label, "")
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize()
        named.append(replace(job, family=f"{words} (best of {sizes[name]})" if sizes.get(name, 0) > 1 else job.label))
    return named


def _unique_name(folder: Path, taken: dict[str, str]) -> str:
    return folder.name if folder.name not in taken else str(folder)
