"""The jobs that a board's configuration asks for: anomalib's grid, with a name and a label for each job.

A job's name follows from its own part of the configuration alone, so that finished jobs stay finished when models or
categories are added. Its label does not: it says how a model differs from others of its name in the grid.
"""

import copy
import hashlib
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from anomalib.pipelines.components.utils import get_iterator_from_grid_dict
from anomalib.utils.config import flatten_dict

from anomalib_anoseg.board.run.run_folder import Budget, Job
from anomalib_anoseg.common.checks import check_settings
from anomalib_anoseg.common.naming import fingerprint, tell_apart
from anomalib_anoseg.common.presets import merge, read_preset

# Modules whose classes may also be given by name alone: both spellings make the same job.
KNOWN = ("anomalib.models", "anomalib.data", "anomalib_anoseg", "anomalib_anoseg.board.baselines")
ACCELERATORS = ("cpu", "cuda")
AMOUNTS = ("seconds", "images")
CLOCKS = ("cpu", "wall")
# Settings of a preset's trainer that belong to the model as it is shipped.
LENGTHS = ("max_epochs", "max_steps")


@dataclass(frozen=True)
class Task:
    """A job and the input of its process."""

    job: Job
    container: dict[str, Any]
    trainer: dict[str, Any]


def read_tasks(config: dict[str, Any]) -> list[Task]:
    """Expand a configuration with anomalib's grid syntax into jobs, in the order of the grid.

    Args:
        config: Content of the YAML file.

    Raises:
        ValueError: If a part is missing or wrong, or two jobs could not be told apart.

    Example:
        >>> data = {"class_path": "MVTecAD", "init_args": {"category": {"grid": ["screw", "nut"]}}}
        >>> benchmark = {"seed": 0, "model": {"class_path": "Padim"}, "data": data}
        >>> [task.job.category for task in read_tasks({"accelerator": "cpu", "benchmark": benchmark})]
        ['screw', 'nut']
    """
    benchmark = _check(config)
    accelerators = config["accelerator"] if isinstance(config["accelerator"], list) else [config["accelerator"]]
    tasks: list[Task] = []
    for accelerator in accelerators:
        if accelerator not in ACCELERATORS:
            raise ValueError(f"accelerator must be one of {', '.join(ACCELERATORS)}, got {accelerator!r}.")
        budget = read_budget(config.get("budget"), accelerator)
        # the configurations that anomalib's grid yields share the parts that do not vary
        containers = map(copy.deepcopy, get_iterator_from_grid_dict(benchmark))
        trainer = check_settings("trainer", config.get("trainer"))
        tasks += [_make_task(container, accelerator, trainer, budget) for container in containers]
    tasks = _label(tasks)
    _check_different(tasks)
    return tasks


def read_budget(budget: Any, accelerator: str) -> Budget | None:  # noqa: ANN401
    """Check a budget, and add the clock of its seconds.

    CPU time counts only what the training process itself computes, whatever else keeps the machine busy; the work of an
    accelerator is not in it.

    Args:
        budget: ``{"images": ...}`` or ``{"seconds": ...}``, the latter also with ``"clock": "cpu"`` or ``"wall"``.
        accelerator: ``"cpu"``, where the clock is the CPU's unless given, or ``"cuda"``, where it is the wall's.

    Raises:
        ValueError: If the budget is not valid.

    Example:
        >>> read_budget({"seconds": 120}, "cpu"), read_budget({"seconds": 120}, "cuda")
        ({'seconds': 120, 'clock': 'cpu'}, {'seconds': 120, 'clock': 'wall'})
    """
    if budget is None:
        return None
    amounts: Any = {name: budget[name] for name in AMOUNTS if name in budget} if isinstance(budget, dict) else {}
    allowed = {"seconds", "clock"} if "seconds" in amounts else {"images"}
    if len(amounts) != 1 or not set(budget) <= allowed or not all(map(_is_positive, amounts.values())):
        raise ValueError(
            "budget must be {seconds: ...}, {seconds: ..., clock: cpu} or {images: ...} with a positive number, got "
            f"{budget!r}."
        )
    if "images" in amounts:
        return amounts
    clock = budget.get("clock", "cpu" if accelerator == "cpu" else "wall")
    if clock not in CLOCKS:
        raise ValueError(f"budget.clock must be one of {', '.join(CLOCKS)}, got {clock!r}.")
    if clock == "cpu" and accelerator != "cpu":
        raise ValueError(f"budget.clock: CPU time misses what accelerator {accelerator} computes. Set it to wall.")
    return Budget(seconds=amounts["seconds"], clock=clock)


def _is_positive(amount: Any) -> bool:  # noqa: ANN401
    return isinstance(amount, int | float) and not isinstance(amount, bool) and 0 < amount < float("inf")


def _make_task(container: dict[str, Any], accelerator: str, trainer: dict[str, Any], budget: Budget | None) -> Task:
    (model, length), (data, _) = (read_entry(part, container.get(part)) for part in ("model", "data"))
    settings, data_settings = model["init_args"], data["init_args"]
    if budget is not None or "max_epochs" in settings:
        length = {}
    trainer = {**length, **trainer, **check_settings("model.trainer", model.get("trainer"))}
    seed = container.get("seed")
    if not isinstance(seed, int):
        raise ValueError(  # noqa: TRY004 - a value in the user's file
            f"benchmark.seed must be a whole number, or a grid of some, got {seed!r}."
        )
    if (budget or {}).get("clock") == "cpu" and data_settings.get("num_workers"):
        raise ValueError(
            "benchmark.data.init_args.num_workers must be 0 with a budget of CPU time, which does not see what other "
            "processes do. Remove it, or set budget.clock to wall."
        )
    job = Job(
        id="",
        label=str(model.get("label") or model["class_path"].rpartition(".")[2]),
        model=model["class_path"],
        dataset=data["class_path"].rpartition(".")[2],
        category=str(data_settings.get("category", "")),
        seed=seed,
        settings=flatten_dict(settings),
        accelerator=accelerator,
        budget=budget,
        data_label=str(data.get("label") or ""),
        data=flatten_dict(data_settings),
        trainer=flatten_dict(trainer),
    )
    container = {**container, "model": {"class_path": job.model, "init_args": settings}, "data": data}
    return Task(_name(job, container, trainer), container, trainer)


def read_entry(part: str, entry: Any) -> tuple[dict[str, Any], dict[str, Any]]:  # noqa: ANN401 - whatever YAML can hold
    """Read an entry of the grid: what its ``preset`` says, if it names one, overridden by what it says itself.

    Args:
        part: ``"model"`` or ``"data"``.
        entry: The entry, or its class alone.

    Returns:
        tuple[dict[str, Any], dict[str, Any]]: The entry with ``class_path`` and ``init_args``, and the settings of the
        preset's trainer that say how long it trains.

    Raises:
        ValueError: If it has no class.

    Example:
        >>> entry, length = read_entry("model", {"preset": "laptop", "init_args": {"optimizer": {"lr": 0.1}}})
        >>> entry["class_path"], entry["init_args"]["optimizer"], length
        ('anomalib_anoseg.AnoSeg', {'lr': 0.1}, {'max_epochs': 64})
    """
    own = {"class_path": entry} if isinstance(entry, str) else dict(entry) if isinstance(entry, dict) else {}
    own["init_args"] = check_settings(f"{part}.init_args", own.get("init_args"))
    name = own.pop("preset", None)
    preset = {} if name is None else read_preset(name)
    of_part = preset.get(part, preset)  # a preset of data alone is the data
    read = merge({key: of_part[key] for key in ("class_path", "init_args") if key in of_part}, own)
    if not isinstance(read.get("class_path"), str):
        raise ValueError(  # noqa: TRY004 - a value in the user's file
            "Each entry of benchmark.model and benchmark.data needs a class_path, or a preset that has one."
        )
    return read, {key: value for key, value in preset.get("trainer", {}).items() if key in LENGTHS}


def _name(job: Job, container: dict[str, Any], trainer: dict[str, Any]) -> Job:
    """Name a job after its own configuration, whatever its place in the grid."""
    content = fingerprint([job.label, _spell_short(container), trainer, job.accelerator, job.budget])
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    parts = [
        re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-")[:60] for part in (job.label, job.data_label or job.category)
    ]
    return replace(job, id="-".join([*filter(None, parts), f"seed{job.seed}", digest]))


def _spell_short(container: dict[str, Any]) -> dict[str, Any]:
    short = {}
    for part in ("model", "data"):
        module, _, name = container[part]["class_path"].rpartition(".")
        short[part] = container[part] | ({"class_path": name} if module in KNOWN else {})
    return container | short


def _label(tasks: list[Task]) -> list[Task]:
    """Add to equal labels the settings in which their models differ."""
    labels, _ = tell_apart([task.job.label for task in tasks], [task.job.settings for task in tasks])
    return [replace(task, job=replace(task.job, label=label)) for task, label in zip(tasks, labels, strict=True)]


def _check_different(tasks: list[Task]) -> None:
    """Refuse jobs that could not be told apart in a report, before hours of training.

    Raises:
        ValueError: If there are any.
    """
    if len({task.job.id for task in tasks}) < len(tasks):
        raise ValueError("Two jobs of the grid are equal. Remove one of them.")
    seen: dict[tuple[Any, ...], Job] = {}
    for job in (task.job for task in tasks):
        first = seen.setdefault((job.label, job.dataset, job.data_name, job.seed, job.accelerator), job)
        if first is not job:
            before, now = asdict(first), asdict(job)
            unequal = [name for name in ("data", "trainer", "model") if before[name] != now[name]]
            whose = "data" if unequal == ["data"] else "model"
            raise ValueError(
                f"Two jobs of the grid are called {job.label!r} on {job.data_name!r} with seed {job.seed}, though "
                f"their {' and '.join(unequal) or 'settings'} differ. Give each entry of benchmark.{whose} a `label`."
            )


def _check(config: Any) -> dict[str, Any]:  # noqa: ANN401
    """Check that all parts are there, and return the part that holds the grid.

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
