"""A grid of anomalib's benchmark as a board: every finished row kept, every missing one named.

The configuration is one of ``anomalib benchmark``, which runs it, too, and so are grid syntax, jobs, and how models and
data are made from it. What its pipeline drops is added here and in :mod:`~anomalib_anoseg.leaderboard.jobs`, and
nowhere else:

- There, rows are written when all jobs have ended; a failed one throws the others away, and the command exits with 0.
  Here, each job writes its row into a folder, and the command exits with 1 as long as one is missing.
- There, the seed is set after the model is built. Here before, and models with a ``seed`` of their own get it.
- There, no trainer settings reach the model, which then trains Lightning's default of 1000 epochs. Here, the top-level
  key ``trainer`` and the key ``trainer`` of a model do; anomalib's pipeline ignores both. So it does the top-level key
  ``budget``: ``{seconds: 600}`` or ``{images: 20000}`` gives all models an equally long training.
- There, rows need equal columns, thus models equal settings and equal metrics. Here, models may have any settings,
  and all are judged alike (:mod:`~anomalib_anoseg.leaderboard.judging`).
- There, a killed run is lost. Here, finished jobs stay finished, and the job that was killed goes on from its last
  checkpoint. A job is known by its configuration: what is changed there runs anew.
- There, constructors may download. Here, a model that would is left out, and a line says so before the first job.
"""

import copy
import hashlib
import json
import os
import re
import subprocess  # noqa: S404 - of ourselves
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from anomalib.pipelines.components.utils import get_iterator_from_grid_dict
from anomalib.utils.config import flatten_dict
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from anomalib_anoseg.leaderboard.players.packed import parse_settings
from anomalib_anoseg.leaderboard.runs import Board, Budget, Job, RunFolder, write_json

PLAYER = "anomalib_anoseg.leaderboard.players.player"
ACCELERATORS = ("cpu", "cuda")
BUDGETS = ("seconds", "images")
CODE = "from anomalib_anoseg.leaderboard.jobs import main; main()"


@dataclass(frozen=True)
class Task:
    """A job and what its process is told."""

    job: Job
    container: dict[str, Any]
    trainer: dict[str, Any]


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
    tasks, console, runs = read_tasks(yaml.safe_load(text)), Console(stderr=True), RunFolder(out)
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


def read_tasks(config: dict[str, Any]) -> list[Task]:
    """Expand a configuration with anomalib's grid syntax.

    Args:
        config: Content of the YAML file.

    Returns:
        list[Task]: All jobs in the order of the grid.

    Raises:
        ValueError: If a part is missing or wrong, or two jobs are equal.

    Example:
        >>> data = {"class_path": "MVTecAD", "init_args": {"category": {"grid": ["screw", "nut"]}}}
        >>> benchmark = {"seed": 0, "model": {"class_path": "Padim"}, "data": data}
        >>> [task.job.category for task in read_tasks({"accelerator": "cpu", "benchmark": benchmark})]
        ['screw', 'nut']
    """
    benchmark, budget = _check(config), _read_budget(config.get("budget"))
    accelerators = config["accelerator"] if isinstance(config["accelerator"], list) else [config["accelerator"]]
    tasks: list[Task] = []
    for accelerator in accelerators:
        if accelerator not in ACCELERATORS:
            raise ValueError(f"accelerator must be one of {', '.join(ACCELERATORS)}, got {accelerator!r}.")
        # anomalib's grid shares what it does not vary among the configurations it yields
        containers = map(copy.deepcopy, get_iterator_from_grid_dict(benchmark))
        trainer = config.get("trainer") or {}
        tasks += [_make_task(container, accelerator, trainer, budget) for container in containers]
    tasks = _label(tasks)
    if len({task.job.id for task in tasks}) < len(tasks):
        raise ValueError("Two jobs of the grid are equal. Remove one of them.")
    return tasks


def _make_task(container: dict[str, Any], accelerator: str, trainer: dict[str, Any], budget: Budget | None) -> Task:
    model = container["model"]
    model = {"class_path": model} if isinstance(model, str) else model
    if "class_path" not in model or "class_path" not in container["data"]:
        raise ValueError("Each entry of benchmark.model and benchmark.data needs a class_path.")
    settings = model.get("init_args") or {}
    trainer = {**trainer, **(model.get("trainer") or {})}
    path = model["class_path"]
    if path == PLAYER:
        path, settings = settings["model"], parse_settings(settings.get("settings"))
    seed = container.get("seed")
    if not isinstance(seed, int):
        raise ValueError(  # noqa: TRY004 - a value in the user's file
            f"benchmark.seed must be a whole number, or a grid of some, got {seed!r}."
        )
    data = container["data"]
    job = Job(
        id="",
        label=str(model.get("label") or ""),
        model=path,
        dataset=data["class_path"].rpartition(".")[2],
        category=str((data.get("init_args") or {}).get("category", "")),
        seed=seed,
        settings=flatten_dict(settings),
        accelerator=accelerator,
        budget=budget,
    )
    container = {**container, "model": {"class_path": path, "init_args": settings}}
    return Task(job, container, trainer)


def _label(tasks: list[Task]) -> list[Task]:
    """Give each model with its settings a label, and each job a name."""
    kinds: dict[str, dict[str, Any]] = {}
    for task in tasks:
        kinds[_kind(task)] = {"": task.job.label or task.job.model.rpartition(".")[2], **task.job.settings}
    labels = {}
    for kind, settings in kinds.items():
        namesakes = [other for other in kinds.values() if other[""] == settings[""]]
        names = sorted({name for other in namesakes for name in other if name})
        varied = [name for name in names if len({json.dumps(other.get(name)) for other in namesakes}) > 1]
        shown = ", ".join(f"{name}={settings[name]}" for name in varied if name in settings)
        labels[kind] = f"{settings['']} ({shown})" if shown else settings[""]
    return [_name(task, labels[_kind(task)]) for task in tasks]


def _kind(task: Task) -> str:
    return json.dumps([task.job.label, task.container["model"], task.trainer], sort_keys=True, default=str)


def _name(task: Task, label: str) -> Task:
    content = [label, task.container, task.trainer, task.job.accelerator, task.job.budget]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:8]
    parts = [re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-")[:60] for part in (label, task.job.category)]
    job_id = "-".join([*filter(None, parts), f"seed{task.job.seed}", digest])
    return Task(Job(**{**asdict(task.job), "id": job_id, "label": label}), task.container, task.trainer)


def _check(config: Any) -> dict[str, Any]:  # noqa: ANN401
    """Check that the parts are there, and give what a grid is made of.

    Raises:
        ValueError: If one is missing.
    """
    benchmark = config.get("benchmark") if isinstance(config, dict) else None
    if not isinstance(benchmark, dict) or "accelerator" not in config:
        raise ValueError("The configuration needs the keys accelerator and benchmark, as for `anomalib benchmark`.")
    missing = [name for name in ("seed", "model", "data") if name not in benchmark]
    if missing:
        raise ValueError(f"benchmark lacks {', '.join(missing)}.")
    return copy.deepcopy(benchmark)


def _read_budget(budget: Any) -> Budget | None:  # noqa: ANN401
    """Check a budget.

    Raises:
        ValueError: If it is none.
    """
    if budget is None:
        return None
    if isinstance(budget, dict) and len(budget) == 1:
        ((kind, amount),) = budget.items()
        if kind in BUDGETS and isinstance(amount, int | float) and amount > 0:
            return {kind: amount}
    raise ValueError(f"budget must be {{seconds: ...}} or {{images: ...}} with a positive number, got {budget!r}.")


def _read(config: Path) -> str:
    """Read a file.

    Raises:
        FileNotFoundError: If there is none.
    """
    if not config.is_file():
        raise FileNotFoundError(f"config: there is no file {str(config)!r}.")
    return config.read_text(encoding="utf-8")


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
    return escape(" ".join(part for part in (job.label, job.category, f"seed {job.seed}") if part))


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


def _reason(job: Job, runs: RunFolder) -> str:
    return escape((runs.error(job.id) or "it was not run").strip().splitlines()[-1])


def _tell_missing(runs: RunFolder, console: Console) -> list[str]:
    if missing := runs.missing():
        console.print(f"[red]{len(missing)} of {len(runs.board().jobs)} rows are missing in {runs.path}:[/]")
    for job in missing:
        console.print(f"  {_describe(job)} ({job.id}): {_reason(job, runs)}", highlight=False, soft_wrap=True)
    return [job.id for job in missing]
