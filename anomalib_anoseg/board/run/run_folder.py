"""The folder that a board leaves: one JSON file for the board, one folder for each of its jobs.

::

    RUNS/
      .lock              held by the board that is running
      board.json         which jobs there should be, and the configuration that asked for them
      jobs/<id>/
        row.json         the results; written last and atomically, so that its presence means "finished"
        error.txt        why the last attempt failed
        job.json         input of the job's process
        job.log          what it printed
        curve.csv        IoU against threshold
        images.csv       one line a test image
        maps/<n>.png     anomaly maps, 8 bits
        pictures/<n>.*   small copies of the test images (jpg) and of their masks (png)
        model.ckpt       the trained model
        work/            checkpoints of a training under way
        cost.json        written by the measurement of costs

Files are read here without torch or anomalib, so that reports start quickly.
"""

import dataclasses
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import AwareDatetime
from typing_extensions import TypedDict

from anomalib_anoseg.common.files import write_json
from anomalib_anoseg.common.machine import Machine
from anomalib_anoseg.common.schema import Number, PathPart, Whole, read_json

SCHEMA = 1

Figures = dict[str, Number | None]


class Budget(TypedDict, total=False):
    """Length of a training: ``images``, or ``seconds`` of a ``clock``, ``"cpu"`` or ``"wall"``."""

    seconds: Number
    images: Number
    clock: str


class Provenance(Machine, total=False):
    """Where the figures of a row come from."""

    commit: str | None
    dirty: bool | None
    versions: dict[str, str] | None
    accelerator: str | None
    precision: str | int | None
    held_out: dict[str, int | str] | None
    trainer: dict[str, Any] | None
    started: AwareDatetime | None
    finished: AwareDatetime | None
    wall_seconds: Number | None
    resumed: bool | None
    calibrated_on: str | None


@dataclass(frozen=True)
class Job:
    """One model with its settings, on one category, with one seed.

    Attributes:
        id: Name of the job's folder: label, category, seed and a hash of the whole configuration.
        label: Display name, one for each model with its settings.
        model: Class path as the user wrote it.
        dataset: Name of the datamodule's class.
        category: Category of the data, ``""`` if it has none.
        seed: Seed of the job.
        settings: The model's arguments as the user wrote them, with dots in the names of nested ones.
        accelerator: ``"cpu"`` or ``"cuda"``.
        budget: ``{"seconds": ..., "clock": "cpu" or "wall"}`` or ``{"images": ...}`` if all models train equally long,
            else ``None``.
        data_label: Display name of the data, ``""`` if the user gave none.
        data: The data's arguments as the user wrote them, like ``settings``.
        trainer: Lightning's arguments as the user wrote them, like ``settings``.
    """

    id: PathPart
    label: str
    model: str
    dataset: str
    category: str
    seed: Whole
    settings: dict[str, Any] = field(default_factory=dict)
    accelerator: str = "cpu"
    budget: Budget | None = None
    data_label: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)

    @property
    def data_name(self) -> str:
        """What the data is called: its label, its category, or else its class."""
        return self.data_label or self.category or self.dataset


@dataclass(frozen=True, kw_only=True)
class Row(Job):
    """Results of a finished job; its ``model`` is the full class path, with which ``model.ckpt`` loads.

    Attributes:
        metrics: Figures of the whole test set; ``None`` where one is not defined.
        defects: Figures by kind of defect, each against all good images.
        trivial: Whether the model is one that every other has to beat.
        training: ``seconds`` of the wall and ``cpu_seconds``; ``images`` drawn and ``seconds_per_image``; ``epochs``,
            how often each training image was drawn on average; ``steps``; ``load_begin`` and ``load_end``, the
            machine's load average.
        peak_memory_mb: Largest memory of the job's process while it trained, in MiB (2**20 bytes): resident memory,
            libraries and images included, or what its tensors took of the GPU, if it ran there.
        test_memory_mb: The same while it tested, the training's leftovers in the process included; what a model needs
            to predict is what ``cost`` measures.
        parameters: Number of the model's parameters.
        provenance: Commit, versions, hardware and times.
    """

    metrics: Figures
    defects: dict[str, Figures]
    trivial: bool
    training: Figures
    peak_memory_mb: Number | None
    parameters: Whole
    provenance: Provenance
    test_memory_mb: Number | None = None
    schema: int = SCHEMA


@dataclass(frozen=True)
class Board:
    """Text of the configuration, the jobs that it asks for, in their order, and why models take no part, by label."""

    config: str
    jobs: list[Job]
    left_out: dict[str, str] = field(default_factory=dict)


class RunFolder:
    """Reads and writes the folder of a board, which is created by the first write."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @contextmanager
    def locked(self) -> Generator[None, None, None]:
        """Keep other boards out of the folder; the system releases the lock when the process ends, however it ends.

        Raises:
            ValueError: If another process has it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ValueError(
                f"out: another board is running in {self.path}. Wait for its end, or name another folder."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def job_folder(self, job_id: str) -> Path:
        """Return the folder of a job's files."""
        return self.path / "jobs" / job_id

    def write_board(self, board: Board) -> None:
        """Write the expected jobs."""
        write_json(self.path / "board.json", {"schema": SCHEMA, **dataclasses.asdict(board)})

    def board(self) -> Board:
        """Read the expected jobs.

        Raises:
            FileNotFoundError: If there is no board in the folder.
            ValueError: If another version wrote it.
        """  # noqa: DOC502
        path = self.path / "board.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.path} holds no board.json. Name the folder given as --out to `anomalib-anoseg board`."
            )
        board: Board = read_json(path, Board, SCHEMA)
        return board

    def write_row(self, row: Row) -> None:
        """Write a row, which marks its job as finished; undefined figures become null."""
        folder = self.job_folder(row.id)
        (folder / "error.txt").unlink(missing_ok=True)
        write_json(folder / "row.json", dataclasses.asdict(row))

    def row(self, job_id: str) -> Row | None:
        """Read a row; ``None`` if its job is not finished."""
        path = self.job_folder(job_id) / "row.json"
        return read_json(path, Row, SCHEMA) if path.is_file() else None

    def rows(self) -> list[Row]:
        """Read the rows of all finished jobs of the board, in its order, under the labels that it gives them now."""
        found = [(job, self.row(job.id)) for job in self.board().jobs]
        return [dataclasses.replace(row, label=job.label) for job, row in found if row is not None]

    def missing(self) -> list[Job]:
        """Name the jobs of the board that are not finished."""
        return [job for job in self.board().jobs if not (self.job_folder(job.id) / "row.json").is_file()]

    def error(self, job_id: str) -> str | None:
        """Read why the last attempt failed; ``None`` if it did not."""
        path = self.job_folder(job_id) / "error.txt"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
