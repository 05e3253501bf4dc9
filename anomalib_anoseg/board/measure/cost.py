"""Cost of running the models of a board, measured in every form in which they can be shipped.

For each chosen job the trained model is exported by anomalib (Torch, ONNX, OpenVINO in FP32, FP16 and INT8). Of each
form we measure the size of its files, its accuracy on the job's test images, so that one sees what a cheaper form
loses, and its latency and memory, in a process of its own and in turns with all others.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from anomalib_anoseg.board.measure.measurement import JobCost
from anomalib_anoseg.board.run.run_folder import SCHEMA, RunFolder
from anomalib_anoseg.common.files import write_json
from anomalib_anoseg.common.machine import load_average, package_versions, processor
from anomalib_anoseg.common.schema import read_json
from anomalib_anoseg.deploy.latency import measure_in_turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib_anoseg.board.run.run_folder import Row
    from anomalib_anoseg.deploy.latency import Worker
    from anomalib_anoseg.deploy.runtimes import Form

__all__ = ["measure_cost"]

PACKAGES = ("anomalib-anoseg", "anomalib", "torch", "onnxruntime", "openvino", "nncf")


class _Options(NamedTuple):
    batches: tuple[int, ...]
    rounds: int
    seconds: float
    threads: int
    calibration_images: int


def measure_cost(
    runs: Path,
    seeds: int | None = 1,
    latency_categories: int | None = 1,
    batches: tuple[int, ...] = (1, 16),
    rounds: int = 4,
    seconds: float = 0.5,
    threads: int = 1,
    calibration_images: int = 300,
    jobs_at_once: int = 4,
    force: bool = False,
) -> list[Path]:
    """Measure what the finished jobs of a board cost to run, and write a ``cost.json`` beside each one's row.

    Latency is the wall time of one call, from pictures as large as the data set's in memory to scores and maps in
    memory, on the CPU. Multiply-adds are half of what torch's counter of floating-point operations finds in
    convolutions and matrix products of one picture, resized. Memory is the largest resident size of a process that
    predicts one picture at a time, its libraries included. OpenVINO's FP32 computes in float32; FP16 and INT8 are files
    of that precision, which compute in what OpenVINO chooses for the processor; ``in_use`` says what that was. INT8 is
    calibrated on validation images and training images, never on test images.

    Args:
        runs: Folder that ``anomalib-anoseg board`` wrote; any other is refused.
        seeds: Number of seeds to measure of each model and category, the first ones; null for all.
        latency_categories: Number of categories on which to measure latency and memory of each model, the first ones;
            null for all. Both hardly depend on the category.
        batches: Pictures per call for which latency is measured.
        rounds: Turns of each form per batch size; more are more robust.
        seconds: Length of a turn; it has three calls at least.
        threads: Threads of each library. One is the least disturbed by neighbours.
        calibration_images: Pictures on which INT8 is calibrated, at most.
        jobs_at_once: Number of jobs that take turns with each other. Each needs memory for one process per form.
        force: Whether to measure again what has a ``cost.json``.

    Returns:
        list[Path]: The files written. A form that cannot be measured is named under ``left_out``, with the reason.

    Raises:
        ValueError: If a number is out of range, no job of the board is finished, or nothing could be measured; the
            files then say why.
    """
    numbers = {"seeds": seeds, "latency_categories": latency_categories, "rounds": rounds, "threads": threads}
    numbers |= {"calibration_images": calibration_images, "jobs_at_once": jobs_at_once}
    for name, number in {**numbers, "batches": min(batches, default=0)}.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} must be 1 or more, got {number}")
    if seconds <= 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    options = _Options(batches, rounds, seconds, threads, calibration_images)
    jobs = _choose(RunFolder(runs), seeds, latency_categories)
    waiting = [job for job in jobs if force or not _is_measured(job)]
    console = Console(stderr=True)
    console.print(f"{len(waiting)} jobs to measure, {len(jobs) - len(waiting)} measured already")
    threads_before = torch.get_num_threads()
    try:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as progress:
            whole = progress.add_task("jobs", total=len(waiting))
            for start in range(0, len(waiting), jobs_at_once):
                group = waiting[start : start + jobs_at_once]
                _measure_group(group, options, progress)
                progress.advance(whole, len(group))
    finally:
        torch.set_num_threads(threads_before)
    for job in waiting:
        for name, reason in job.left_out.items():
            console.print(f"left out: {job.title}, {name}: {reason}", markup=False, soft_wrap=True)
    if waiting and not any(job.figures["accuracy"] for job in waiting):
        job = waiting[0]
        raise ValueError(f"Nothing could be measured. {job.title}: {next(iter(job.left_out.values()), 'no reason')}")
    return [job.path for job in waiting]


def _choose(folder: RunFolder, seeds: int | None, latency_categories: int | None) -> list[JobCost]:
    """Choose the first finished seeds of each model and category, and the first categories of each model.

    Raises:
        ValueError: If no job is finished.
    """
    rows = folder.rows()
    if not rows:
        raise ValueError(f"No job of {folder.path} is finished. Run `anomalib-anoseg board` to its end first.")
    rows_of: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        rows_of[row.label][row.data_name].append(row)
    timed = {label: list(of_label)[:latency_categories] for label, of_label in rows_of.items()}
    chosen = [row for row in rows if row in rows_of[row.label][row.data_name][:seeds]]
    return [JobCost(row, folder.job_folder(row.id), row.data_name in timed[row.label]) for row in chosen]


def _is_measured(job: JobCost) -> bool:
    """Tell whether a job's file has all requested figures; one with nothing but reasons has not."""
    if not job.path.is_file():
        return False
    found = read_json(job.path, dict[str, Any])
    is_measured = found.get("schema") == SCHEMA and bool(found.get("accuracy"))
    return is_measured and bool(found.get("latency_measured") or not job.wants_latency)


def _measure_group(group: Sequence[JobCost], options: _Options, progress: Progress) -> None:
    """Measure some jobs, their latencies in turns, and write their files."""
    with TemporaryDirectory() as temporary, ExitStack() as running:
        for number, job in enumerate(group):
            folder = Path(temporary, str(number))
            folder.mkdir()
            job.export(folder, max(options.batches), options.calibration_images, options.threads, progress)
        load_before = load_average()
        workers: dict[tuple[int, Form], Worker] = {}
        for number, job in enumerate(group):
            for form, worker in job.start_workers(options.threads).items():
                workers[number, form] = running.enter_context(worker)
        _measure_latency(group, workers, options, progress)
    circumstances = {
        "threads": options.threads,
        "load_average": [load_before, load_average()],
        "cpu": processor(),
        "versions": {"python": platform.python_version()} | package_versions(PACKAGES),
    }
    for job in group:
        write_json(job.path, {"schema": SCHEMA, **job.figures, **circumstances, "left_out": job.left_out})


def _measure_latency(
    group: Sequence[JobCost], workers: dict[tuple[int, Form], Worker], options: _Options, progress: Progress
) -> None:
    turns = len(workers) * len(options.batches) * options.rounds
    task = progress.add_task("latency, in turns", total=turns, visible=turns > 0)
    samples, failed = measure_in_turns(
        workers, options.batches, options.rounds, options.seconds, lambda: progress.advance(task)
    )
    for ((number, form), batch), by_round in samples.items():
        group[number].add_latency(form, batch, by_round)
    for ((number, form), batch), reason in failed.items():
        group[number].left_out[f"{form.name}, batch {batch}"] = reason
    progress.remove_task(task)
