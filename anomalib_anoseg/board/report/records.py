"""The jobs of run folders, as a report sees them."""

from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from typing_extensions import Required, TypedDict

from anomalib_anoseg.board.run.run_folder import Figures
from anomalib_anoseg.common.schema import Number, Whole


class FormCost(TypedDict, total=False):
    """Accuracy of an exported form, or its latency in milliseconds."""

    runtime: Required[str]
    precision: Required[str]
    batch: Whole
    median_ms: Number | None
    p95_ms: Number | None
    noisy: bool | None
    image_AUROC: Number | None
    pixel_AUROC: Number | None
    pixel_AP: Number | None
    pixel_IoU: Number | None


class Cost(TypedDict, total=False):
    """What a report shows of a ``cost.json``."""

    parameters: Whole | None
    macs: Number | None
    image_size: list[int] | None
    files_mb: Figures | None
    latency: list[FormCost] | None
    accuracy: list[FormCost] | None
    peak_memory_mb: Figures | None
    threads: int
    load_average: list[Number | None] | None
    cpu: str | None
    left_out: dict[str, str] | None


@dataclass(frozen=True)
class FinishedJob:
    """A job: its folder, what its ``row.json`` and ``cost.json`` (if there is one) hold, and its names in the report.

    ``family`` names the row that it is part of: its label, but trivial models of one class share a row.
    """

    folder: Path
    row: dict[str, Any]
    label: str
    category: str
    cost: Cost
    family: str = ""

    @property
    def seed(self) -> int:
        """Seed of the job."""
        return int(self.row["seed"])

    @property
    def is_trivial(self) -> bool:
        """Whether the job is one of the board's trivial rows."""
        return bool(self.row["trivial"])

    @property
    def training(self) -> dict[str, Any]:
        """Time, images and steps of its training."""
        return self.row.get("training") or {}

    @property
    def provenance(self) -> dict[str, Any]:
        """Where its figures come from."""
        return {"accelerator": self.row.get("accelerator"), **(self.row.get("provenance") or {})}

    @property
    def finished(self) -> datetime:
        """When the job ended; 1970 if unknown."""
        return self.provenance.get("finished") or datetime.fromtimestamp(0, timezone.utc)

    @property
    def settings(self) -> dict[str, Any]:
        """The model's settings as its board gives them, without the seed."""
        return {name: value for name, value in (self.row.get("settings") or {}).items() if name != "seed"}


@dataclass(frozen=True)
class Missing:
    """An expected job that has not finished, with the line of ``error.txt`` that names the error."""

    id: str
    label: str
    category: str
    seed: int
    reason: str


@dataclass
class Collection:
    """Everything that run folders hold.

    Attributes:
        jobs: Finished jobs, in the order of the boards.
        missing: Jobs without a result.
        expected: Number of expected jobs.
        left_out: Why models take no part, by label.
        notes: What the reader must know about how folders were merged.
        configs: Text of each board's configuration, by the name of its folder.
    """

    jobs: list[FinishedJob] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    expected: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    configs: dict[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """Names of all rows: models in the order of the boards, then trivial rows."""
        return list(dict.fromkeys(job.family for job in sorted(self.jobs, key=lambda job: job.is_trivial)))

    @property
    def models(self) -> list[str]:
        """Names of the models without the trivial rows."""
        return list(dict.fromkeys(job.label for job in self.jobs if not job.is_trivial))

    @property
    def categories(self) -> list[str]:
        """Names of the categories in the order of the boards."""
        return list(dict.fromkeys(job.category for job in self.jobs))

    @property
    def seeds(self) -> list[int]:
        """Seeds of the models, ascending."""
        return sorted({job.seed for job in self.jobs if not job.is_trivial} or {job.seed for job in self.jobs})
