"""A grid of models, categories and seeds: every finished row kept, every missing one named.

The configuration is one of ``anomalib benchmark``, with its grid syntax. A board adds what its pipeline drops:

- Each job writes its row at once, and the command exits with 1 as long as one is missing. Finished jobs stay finished;
  one that was killed continues from its last checkpoint. A job is identified by its configuration: a changed one runs
  again.
- The key ``trainer``, at the top or of a model, holds Lightning's settings. The key ``budget`` gives all models an
  equally long training: ``{seconds: 600, clock: cpu}``, ``{seconds: 600, clock: wall}`` or ``{images: 20000}``. With a
  budget of time, learning rates that follow Lightning's timer, as AnoSeg's do, reach their end; those made from a
  number of epochs, as DRAEM's are, keep their first value unless training gets that far.
- The key ``preset`` of a model or of data names its settings, which its ``init_args`` override. A model's length is its
  preset's, too, unless the board gives it one.
- In place of a mapping stands the name of a file that holds it, relative to the board's.
- The seed is set before a model is built, and models and data without one of their own get it, so that all hold the
  same images out. Held-out images that are test images are refused. A ``label`` tells two data sets apart.
- Models may have any settings, and all are judged alike (:mod:`~anomalib_anoseg.board.run.protocol`).
- A model that would download is left out, and a line says so before the first job.
"""

import json
import os
import subprocess  # noqa: S404 - our own module is started
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import yaml
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from anomalib_anoseg.board.run.grid import Task, read_tasks
from anomalib_anoseg.board.run.run_folder import Board, Job, RunFolder
from anomalib_anoseg.common.files import write_json, write_texts
from anomalib_anoseg.common.isolation import isolated
from anomalib_anoseg.common.messages import one_line
from anomalib_anoseg.common.presets import read_file

CODE = isolated("anomalib_anoseg.board.run.job")
OFFLINE = {"HF_HUB_OFFLINE": "1"}


def run_board(config: Path | str, out: Path | str, offline: bool = True, save_every: float = 60.0) -> list[str]:
    """Train and test a grid of models, one after another, and keep every result.

    Run the same command again to go on after an interruption, and to try failed jobs again.

    Args:
        config: YAML file as for ``anomalib benchmark``, optionally with ``trainer`` and ``budget``.
        out: Folder for the results; may hold those of an earlier run.
        offline: Whether an attempt to download is an error.
        save_every: Least seconds between two checkpoints of a training, from which an interrupted one continues.

    Returns:
        list[str]: Names of the jobs that are missing; the command exits with 1 if there are any.

    Raises:
        FileNotFoundError: If there is no such configuration, or it names a file that there is not.
        ValueError: If the configuration cannot be used; the message says what to change.
    """
    try:
        content, text = read_file(Path(config)), Path(config).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"config: {error}") from error
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise ValueError(f"config: {config} is no YAML: {one_line(str(error))}") from error
    tasks, runs = read_tasks(content), RunFolder(out)
    with runs.locked():
        return _run_all(tasks, text, runs, offline, save_every)


def _run_all(tasks: list[Task], text: str, runs: RunFolder, offline: bool, save_every: float) -> list[str]:
    """Run the jobs that are not finished; return those that are still missing.

    Raises:
        ValueError: If all models lack a file.
    """
    console = Console(stderr=True)
    left_out = _find_left_out(tasks, console) if offline else {}
    tasks = [task for task in tasks if task.job.label not in left_out]
    if not tasks:
        raise ValueError(f"No model is left: {left_out}")
    runs.write_board(Board(text, [task.job for task in tasks], left_out))
    todo = {job.id for job in runs.missing()}
    if len(todo) < len(tasks):
        console.print(f"{len(tasks) - len(todo)} of {len(tasks)} jobs were finished before.")
    columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("jobs"), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console) as progress:
        bar = progress.add_task("", total=len(tasks), completed=len(tasks) - len(todo))
        for task in tasks:
            if task.job.id not in todo:
                continue
            _run(task, runs, offline, save_every, lambda state: progress.update(bar, description=state))
            progress.advance(bar)
            _print_row(task.job, runs, console)
        progress.update(bar, description="")
    return _print_missing(runs, console)


def _find_left_out(tasks: list[Task], console: Console) -> dict[str, str]:
    """Build each model once, in a process of its own, and say which lack a file."""
    models = {task.job.label: task.container["model"] for task in tasks}
    with tempfile.TemporaryDirectory() as folder, console.status(f"Building {len(models)} models ..."):
        path = Path(folder) / "models.json"
        write_json(path, models)
        command = [sys.executable, "-c", CODE, str(path)]
        process = subprocess.run(command, capture_output=True, check=False, env=os.environ | OFFLINE)  # noqa: S603
        # An error here occurs again in a job, which reports it.
        left_out: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if process.returncode == 0 else {}
    for label, reason in left_out.items():
        console.print(f"[yellow]{escape(label)} is left out:[/] {escape(reason)}", highlight=False, soft_wrap=True)
    return left_out


def _run(task: Task, runs: RunFolder, offline: bool, save_every: float, show: Callable[[str], None]) -> None:
    """Run a job in a process of its own, and leave ``error.txt`` if it ends without a row."""
    folder, options = runs.job_folder(task.job.id), {"offline": offline, "save_every": save_every}
    write_json(folder / "job.json", {**asdict(task), **options})
    (folder / "error.txt").unlink(missing_ok=True)
    environment = os.environ | (OFFLINE if offline else {})
    with (folder / "job.log").open("a", encoding="utf-8") as log:
        command = [sys.executable, "-c", CODE, str(folder)]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)  # noqa: S603
        try:
            while process.poll() is None:
                show(f"{_describe(task.job)}{_epoch(folder)}")
                time.sleep(0.2)
        finally:
            process.terminate()
            process.wait()
    if runs.row(task.job.id) is None and runs.error(task.job.id) is None:
        code = process.returncode
        reason = f"was killed by signal {-code}, possibly for lack of memory" if code < 0 else f"ended with {code}"
        lines = (folder / "job.log").read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        write_texts({folder / "error.txt": "\n".join([*lines, f"The job's process {reason}."])})


def _describe(job: Job) -> str:
    return escape(f"{job.label} {job.data_name} seed {job.seed}")


def _epoch(folder: Path) -> str:
    try:
        progress = json.loads((folder / "work" / "progress.json").read_text(encoding="utf-8"))
        total = progress["max_epochs"]
        return f", epoch {progress['epoch']}" + (f" of {total}" if total and total < 10_000 else "")  # noqa: PLR2004
    except (OSError, ValueError, LookupError, TypeError):  # shown while it may be written
        return ""


def _print_row(job: Job, runs: RunFolder, console: Console) -> None:
    row = runs.row(job.id)
    if row is None:
        console.print(f"[red]{_describe(job)} failed:[/] {_reason(job, runs)}", highlight=False, soft_wrap=True)
        return
    shown = {name: row.metrics.get(name) for name in ("image_AUROC", "pixel_AUROC", "pixel_AP")}
    figures = ", ".join(f"{name} {value:.3f}" for name, value in shown.items() if value is not None)
    console.print(f"{_describe(job)}: {figures}", highlight=False, soft_wrap=True)
    if anomalous := (row.provenance.get("held_out") or {}).get("anomalous"):
        text = f"{anomalous} of the images that its thresholds come from are anomalous: it has seen defects."
        console.print(f"[yellow]{_describe(job)}:[/] {text}", highlight=False, soft_wrap=True)


def _reason(job: Job, runs: RunFolder) -> str:
    return escape((runs.error(job.id) or "it was not run").strip().splitlines()[-1])


def _print_missing(runs: RunFolder, console: Console) -> list[str]:
    if missing := runs.missing():
        console.print(f"[red]{len(missing)} of {len(runs.board().jobs)} rows are missing in {runs.path}:[/]")
    for job in missing:
        console.print(f"  {_describe(job)} ({job.id}): {_reason(job, runs)}", highlight=False, soft_wrap=True)
    return [job.id for job in missing]
