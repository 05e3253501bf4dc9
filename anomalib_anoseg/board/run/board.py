"""A grid of models, categories and seeds: every finished row kept, every missing one named.

The configuration is one of ``anomalib benchmark``, with its grid syntax. A board adds what its pipeline drops:

- Each job writes its row at once, and the command exits with 1 as long as one is missing. Finished jobs stay finished;
  one that was killed continues from its last checkpoint. A changed configuration makes a new job.
- The keys ``trainer``, ``budget`` and ``preset``, and files in place of any mapping: the board's guide has them.
  With a budget of time, learning rates that follow Lightning's timer, as AnoSeg's do, reach their end; those made from
  a number of epochs, as DRAEM's are, keep their first value unless training gets that far.
- The seed is set before a model is built, and models and data without one of their own get it, so that all hold the
  same images out. Held-out images that are test images are refused. A ``label`` tells two data sets apart.
- Models may have any settings, and all are judged alike (:mod:`~anomalib_anoseg.board.run.protocol`).
- A model that would download is left out, and a line says so before the first job.
"""

import math
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from anomalib_anoseg.board.run.grid import Task, read_tasks
from anomalib_anoseg.board.run.run_folder import Board, Job, RunFolder
from anomalib_anoseg.common.checks import check_value
from anomalib_anoseg.common.files import write_json
from anomalib_anoseg.common.jobs.cluster import Cluster
from anomalib_anoseg.common.jobs.one_machine import OneMachine
from anomalib_anoseg.common.jobs.process import Place, Work, ask
from anomalib_anoseg.common.messages import one_line
from anomalib_anoseg.common.presets import read_file

MODULE = "anomalib_anoseg.board.run.job"
OFFLINE = {"HF_HUB_OFFLINE": "1"}
# MiB of a job of which no row tells: at 128x128 pixels most take 1100 to 1700, DRAEM 5600.
UNKNOWN_NEED = 2048.0


def run_board(
    config: Path | str,
    out: Path | str,
    offline: bool = True,
    save_every: float = 60.0,
    workers: int = 1,
    scheduler: str | None = None,
    threads: int | None = None,
) -> list[str]:
    """Train and test a grid of models, and keep every result.

    Run the same command again to go on after an interruption, and to try failed jobs again.

    Args:
        config: YAML file as for ``anomalib benchmark``, optionally with ``trainer`` and ``budget``.
        out: Folder for the results; may hold those of an earlier run.
        offline: Whether an attempt to download is an error.
        save_every: Least seconds between two checkpoints of a training, from which an interrupted one continues.
        workers: Number of jobs at a time on this machine, each with its share of the cores.
        scheduler: Address of a Dask scheduler on whose workers the jobs run, instead of this machine.
        threads: Threads of each job; by default its share of the cores, or those of its Dask worker. Equal numbers
            give equal results, wherever a job runs.

    Returns:
        list[str]: Names of the jobs that are missing; the command exits with 1 if there are any.

    Raises:
        FileNotFoundError: If there is no such configuration, or it names a file that there is not.
        ValueError: If the configuration cannot be used; the message says what to change.
    """
    check_value("save_every", save_every, 0.0, math.inf)
    if scheduler is not None and workers > 1:
        raise ValueError(f"workers: the scheduler's workers run the jobs. Leave --workers {workers} out.")
    try:
        content, text = read_file(Path(config)), Path(config).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"config: {error}") from error
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise ValueError(f"config: {config} is no YAML: {one_line(str(error))}") from error
    tasks, runs, console = read_tasks(content), RunFolder(out), Console(stderr=True)
    with runs.locked(), ExitStack() as opened:
        place: Place = OneMachine(workers, threads)
        if scheduler is not None:
            place = opened.enter_context(closing(Cluster(scheduler, threads, lambda line: _warn(line, console))))
        return _run_all(tasks, text, runs, place, {"offline": offline, "save_every": save_every}, console)


def _run_all(
    tasks: list[Task], text: str, runs: RunFolder, place: Place, options: dict[str, Any], console: Console
) -> list[str]:
    """Run the jobs that are not finished; return those that are still missing.

    Raises:
        ValueError: If all models lack a file.
    """
    left_out: dict[str, str] = {}
    if options["offline"]:
        models = {task.job.label: task.container["model"] for task in tasks}
        with console.status(f"Building {len(models)} models ..."):
            left_out = place.call(ask, MODULE, models, OFFLINE) or {}  # an error there occurs again in a job
    for label, reason in left_out.items():
        _warn(f"{label} is left out: {reason}", console)
    tasks = [task for task in tasks if task.job.label not in left_out]
    if not tasks:
        raise ValueError(f"No model is left: {left_out}")
    runs.write_board(Board(text, [task.job for task in tasks], left_out))
    todo = {job.id: job for job in runs.missing()}
    for task in tasks:
        if task.job.id in todo:
            write_json(runs.job_folder(task.job.id) / "job.json", {**asdict(task), **options})
    if len(todo) < len(tasks):
        console.print(f"{len(tasks) - len(todo)} of {len(tasks)} jobs were finished before.")
    columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("jobs"), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console) as progress:
        bar = progress.add_task("", total=len(tasks), completed=len(tasks) - len(todo))

        def show(states: dict[str, str]) -> None:
            shown = [_describe(todo[name]) + state for name, state in states.items()]
            progress.update(bar, description="; ".join(shown) or "waiting for workers")

        with closing(place.run(_prepare(todo, runs, options["offline"]), show)) as ended:
            for name in ended:
                progress.advance(bar)
                _print_row(todo[name], runs, console)
        progress.update(bar, description="")
    return _print_missing(runs, console)


def _prepare(jobs: dict[str, Job], runs: RunFolder, offline: bool) -> list[Work]:
    """Say what each job needs: as much memory as finished ones of its label took."""
    known: dict[str, float] = {}
    for row in runs.rows():
        if row.accelerator == "cpu":
            known[row.label] = max(known.get(row.label, 0), row.peak_memory_mb or 0, row.test_memory_mb or 0)
    return [
        Work(name, runs.job_folder(name), MODULE, OFFLINE if offline else {}, known.get(job.label) or UNKNOWN_NEED)
        for name, job in jobs.items()
    ]


def _warn(line: str, console: Console) -> None:
    console.print(f"[yellow]{escape(line)}[/]", highlight=False, soft_wrap=True)


def _describe(job: Job) -> str:
    return escape(f"{job.label} {job.data_name} seed {job.seed}")


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
        _warn(f"{job.label} {job.data_name} seed {job.seed}: {text}", console)


def _reason(job: Job, runs: RunFolder) -> str:
    return escape((runs.error(job.id) or "it was not run").strip().splitlines()[-1])


def _print_missing(runs: RunFolder, console: Console) -> list[str]:
    if missing := runs.missing():
        console.print(f"[red]{len(missing)} of {len(runs.board().jobs)} rows are missing in {runs.path}:[/]")
    for job in missing:
        console.print(f"  {_describe(job)} ({job.id}): {_reason(job, runs)}", highlight=False, soft_wrap=True)
    return [job.id for job in missing]
