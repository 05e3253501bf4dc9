"""A grid of anomalib's benchmark as a board: every finished row kept, every missing one named.

The configuration is one of ``anomalib benchmark``, which runs it, too, and so are grid syntax, jobs, and how models and
data are made from it. What its pipeline drops is added here and in :mod:`~anomalib_anoseg.board.run.job`, and
nowhere else:

- There, rows are written when all jobs have ended; a failed one throws the others away, and the command exits with 0.
  Here, each job writes its row into a folder, and the command exits with 1 as long as one is missing.
- There, the seed is set after the model is built. Here before, and models with a ``seed`` of their own get it.
- There, no trainer settings reach the model, which then trains Lightning's default of 1000 epochs. Here, the top-level
  key ``trainer`` and the key ``trainer`` of a model do; anomalib's pipeline ignores both. So it does the top-level key
  ``budget``, which gives all models an equally long training: ``{seconds: 600, clock: cpu}``, so much CPU time, which
  is the default where a CPU trains; ``{seconds: 600, clock: wall}``; or ``{images: 20000}``. With a budget of time,
  learning rates that follow Lightning's timer, as AnoSeg's do, reach their end; those made from a number of epochs,
  as DRAEM's and SuperSimpleNet's are, keep their first value unless the training gets that far.
- There, the images held out for thresholds differ from model to model unless the data has a seed. Here, the data takes
  the job's seed unless it has one, and held-out images that are test images are refused.
- There, data of one class and category are one. Here, a ``label`` of an entry of the data tells them apart.
- There, rows need equal columns, thus models equal settings and equal metrics. Here, models may have any settings,
  and all are judged alike (:mod:`~anomalib_anoseg.board.run.protocol`).
- There, a killed run is lost. Here, finished jobs stay finished, and the job that was killed goes on from its last
  checkpoint. A job is known by its configuration: what is changed there runs anew.
- There, constructors may download. Here, a model that would is left out, and a line says so before the first job.
"""

import json
import os
import subprocess  # noqa: S404 - of ourselves
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from anomalib_anoseg.board.run.grid import Task, read_tasks
from anomalib_anoseg.board.run.run_folder import Board, Job, RunFolder, write_json

CODE = "from anomalib_anoseg.board.run.job import main; main()"


def run_board(config: Path | str, out: Path | str, offline: bool = True, save_every: float = 60.0) -> list[str]:
    """Train and test a grid of models, one after another, and keep every result.

    Run the same command again to go on after an interruption, and to try failed jobs again.

    Args:
        config: YAML file as for ``anomalib benchmark``, with ``trainer`` and ``budget`` beside it if need be.
        out: Folder for the results; may hold those of an earlier run.
        offline: Whether an attempt to download is an error.
        save_every: Least seconds between two checkpoints of a training, from which an interrupted one goes on.

    Returns:
        list[str]: Names of the jobs that are missing; the command exits with 1 if there are any.

    Raises:
        FileNotFoundError: If there is no such configuration.
        ValueError: If the configuration cannot be used; the message says what to change.
    """  # noqa: DOC502
    text = _read(Path(config))
    tasks, runs = read_tasks(_parse(text, config)), RunFolder(out)
    with runs.locked():
        return _run_all(tasks, text, runs, offline, save_every)


def _run_all(tasks: list[Task], text: str, runs: RunFolder, offline: bool, save_every: float) -> list[str]:
    """Run what is not finished; return what is missing then.

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
    with _progress(console) as progress:
        bar = progress.add_task("", total=len(tasks), completed=len(tasks) - len(todo))
        for task in tasks:
            if task.job.id not in todo:
                continue
            _run(task, runs, offline, save_every, lambda state: progress.update(bar, description=state))
            progress.advance(bar)
            _tell(task.job, runs, console)
        progress.update(bar, description="")
    return _tell_missing(runs, console)


def _read(config: Path) -> str:
    """Read a file.

    Raises:
        FileNotFoundError: If there is none.
    """
    if not config.is_file():
        raise FileNotFoundError(f"config: there is no file {str(config)!r}.")
    return config.read_text(encoding="utf-8")


def _parse(text: str, config: Path | str) -> Any:  # noqa: ANN401
    """Parse YAML.

    Raises:
        ValueError: If it is none; the message is one line.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"config: {config} is no YAML: {' '.join(str(error).split())}") from error


def _find_left_out(tasks: list[Task], console: Console) -> dict[str, str]:
    """Build each model once, in a process of its own, and say which lack a file."""
    models = {task.job.label: task.container["model"] for task in tasks}
    with tempfile.TemporaryDirectory() as folder, console.status(f"Building {len(models)} models ..."):
        path = Path(folder) / "models.json"
        write_json(path, models)
        command = [sys.executable, "-c", CODE, str(path)]
        process = subprocess.run(command, capture_output=True, check=False, env=_environment(offline=True))  # noqa: S603
        # Whatever went wrong here goes wrong again in a job, which tells.
        left_out: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if process.returncode == 0 else {}
    for label, reason in left_out.items():
        console.print(f"[yellow]{escape(label)} is left out:[/] {escape(reason)}", highlight=False, soft_wrap=True)
    return left_out


def _run(task: Task, runs: RunFolder, offline: bool, save_every: float, show: Callable[[str], None]) -> None:
    """Run a job in a process of its own, and leave ``error.txt`` if it ends without a row."""
    folder, options = runs.job_folder(task.job.id), {"offline": offline, "save_every": save_every}
    write_json(folder / "job.json", {**asdict(task), **options})
    (folder / "error.txt").unlink(missing_ok=True)
    with (folder / "job.log").open("a", encoding="utf-8") as log:
        command = [sys.executable, "-c", CODE, str(folder)]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=_environment(offline))  # noqa: S603
        try:
            while process.poll() is None:
                show(f"{_describe(task.job)}{_epoch(folder)}")
                time.sleep(0.2)
        finally:
            process.terminate()
            process.wait()
    if runs.row(task.job.id) is None and runs.error(task.job.id) is None:
        code = process.returncode
        reason = f"was killed by signal {-code}, possibly for want of memory" if code < 0 else f"ended with {code}"
        lines = (folder / "job.log").read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        (folder / "error.txt").write_text("\n".join([*lines, f"The job's process {reason}."]), encoding="utf-8")


def _environment(offline: bool) -> dict[str, str]:
    return os.environ | ({"HF_HUB_OFFLINE": "1"} if offline else {})


def _describe(job: Job) -> str:
    return escape(f"{job.label} {job.data_name} seed {job.seed}")


def _epoch(folder: Path) -> str:
    try:
        progress = json.loads((folder / "work" / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    total = progress["max_epochs"]
    return f", epoch {progress['epoch']}" + (f" of {total}" if total and total < 10_000 else "")  # noqa: PLR2004


def _progress(console: Console) -> Progress:
    columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("jobs"), TimeElapsedColumn())
    return Progress(*columns, TextColumn("{task.description}"), console=console)


def _tell(job: Job, runs: RunFolder, console: Console) -> None:
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


def _tell_missing(runs: RunFolder, console: Console) -> list[str]:
    if missing := runs.missing():
        console.print(f"[red]{len(missing)} of {len(runs.board().jobs)} rows are missing in {runs.path}:[/]")
    for job in missing:
        console.print(f"  {_describe(job)} ({job.id}): {_reason(job, runs)}", highlight=False, soft_wrap=True)
    return [job.id for job in missing]
