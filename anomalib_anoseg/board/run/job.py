"""One job of a board, in a process of its own.

A process for each job, because its largest memory then means something, and because a crash of one, or the operating
system's killing it for memory, does not take the board along. :mod:`~anomalib_anoseg.board.run.board` starts it with
the job's folder, where ``job.json`` says what to do::

    python -c "from anomalib_anoseg.board.run.job import main; main()" RUNS/jobs/<id>
"""

import json
import math
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Generator
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from anomalib.engine import Engine
from anomalib.models import get_model
from anomalib.pipelines.benchmark.generator import BenchmarkJobGenerator
from anomalib.pipelines.benchmark.job import BenchmarkJob
from jsonargparse import Namespace
from lightning import seed_everything

from anomalib_anoseg.board.run import protocol
from anomalib_anoseg.board.run.adapting import adapt, check_held_out
from anomalib_anoseg.board.run.budget import BudgetTimer, Stopwatch, TrainingMeter
from anomalib_anoseg.board.run.offline import OfflineError, no_network
from anomalib_anoseg.board.run.provenance import class_path, describe_surroundings
from anomalib_anoseg.board.run.recording import ResumePoint, TestRecorder
from anomalib_anoseg.board.run.run_folder import Budget, Job, Row, RunFolder, write_json
from anomalib_anoseg.common.memory import forget_peak, peak_memory
from anomalib_anoseg.training.final_validation import NEVER

# Epochs until a budget of time ends a training: a number, because schedules are made from it, that is never reached.
ENDLESS = 100_000
JUDGED_IN = "32-true"


class BoardJob(BenchmarkJob):
    """anomalib's benchmark job, with trainer settings, a budget, resumption and records.

    Args:
        folder: The job's folder.
        trainer: Arguments of Lightning's trainer.
        budget: ``{"seconds": ..., "clock": ...}``, ``{"images": ...}`` or ``None``.
        save_every: Least seconds between two checkpoints of a training.
        **kwargs: Arguments of :class:`anomalib.pipelines.benchmark.job.BenchmarkJob`.
    """

    def __init__(
        self,
        folder: Path,
        trainer: dict[str, Any],
        budget: Budget | None,
        save_every: float,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**kwargs)
        self.folder, self.work = folder, folder / "work"
        # A budget would cut short what learns in one pass over the images, and leave half a memory bank.
        budget = None if self.model.trainer_arguments.get("max_epochs") == 1 else budget
        self.trainer, self.budget, self.save_every = trainer, budget, save_every
        self.resumed = False
        self.found: dict[str, Any] = {}
        self.meter = TrainingMeter(self.work / "progress.json", (budget or {}).get("images"))
        self.recorder = TestRecorder(folder)

    def run(self, task_id: int | None = None) -> dict[str, Any]:
        """Train, unless an earlier attempt has done that, and test from the checkpoint that is kept."""
        del task_id
        protocol.apply(self.model)
        self.model.visualizer = self.recorder  # type: ignore[assignment]
        trained = self.work / "trained.json"
        if trained.is_file() and is_zipfile(self.folder / "model.ckpt"):  # whole
            self.resumed = True
        else:
            self._train()
            write_json(trained, {"training": self.meter.figures(), **self.found})
        forget_peak(self.accelerator)
        results = self._judge().test(self.model, datamodule=self.datamodule, ckpt_path=self.folder / "model.ckpt")
        return {
            "metrics": protocol.as_figures(dict(results[0])),
            "defects": self.recorder.defects(),
            **json.loads(trained.read_text(encoding="utf-8")),
            "test_memory_mb": peak_memory(self.accelerator),
            "precision": self.trainer.get("precision", JUDGED_IN),
        }

    def _train(self) -> None:
        self.datamodule.prepare_data()
        self.datamodule.setup()
        self.found["held_out"] = check_held_out(self.datamodule)
        callbacks = [self.meter, ResumePoint(self.work / "training", self.save_every, self.meter.stopwatch)]
        if self.budget is not None and "seconds" in self.budget:
            callbacks.append(BudgetTimer(self.budget["seconds"], self.budget["clock"], self.meter.stopwatch))
        engine = self._engine(*callbacks)
        checkpoint = ResumePoint.latest(self.work / "training")
        self.resumed = checkpoint is not None
        engine.fit(self.model, datamodule=self.datamodule, ckpt_path=checkpoint)
        self.found["peak_memory_mb"] = peak_memory(self.accelerator)
        self._judge().validate(self.model, datamodule=self.datamodule, verbose=False)
        engine.trainer.save_checkpoint(self.folder / "model.ckpt", weights_only=True)

    def _judge(self) -> Engine:
        """Make the engine that calibrates and tests: in one precision for all, however a model was trained.

        In bfloat16 the scores of different images tie.
        """
        return self._engine(ResumePoint(self.work / "training", math.inf, Stopwatch()), precision=JUDGED_IN)

    def _engine(self, *callbacks: Any, **overrides: Any) -> Engine:  # noqa: ANN401
        settings = {
            "check_val_every_n_epoch": NEVER,  # thresholds are calibrated once, afterwards, for all models alike
            "devices": 1,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "num_sanity_val_steps": 0,
            **self.trainer,
            **self._length(),
            **overrides,
        }
        return Engine(
            callbacks=list(callbacks),
            default_root_dir=self.work / "engine",
            accelerator="gpu" if self.accelerator == "cuda" else self.accelerator,
            **settings,
        )

    def _length(self) -> dict[str, Any]:
        """Make trainer settings for a budget.

        A budget of images gives a number of epochs, from which schedules of learning rates are made; with a budget of
        time there is the timer.
        """
        if self.budget is None:
            return {}
        timed = "seconds" in self.budget
        epochs = ENDLESS if timed else math.ceil(self.budget["images"] / len(self.datamodule.train_data))
        return {"max_epochs": epochs, "max_steps": -1, "max_time": None}


class BoardJobGenerator(BenchmarkJobGenerator):
    """anomalib's generator of jobs, which makes jobs for a board, and seeds before it builds a model.

    Args:
        accelerator: ``"cpu"`` or ``"cuda"``.
        **settings: Further arguments of :class:`BoardJob`.
    """

    def __init__(self, accelerator: str, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(accelerator)
        self.settings = settings

    @property
    def job_class(self) -> type:
        """Class of the jobs."""
        return BoardJob

    def generate_jobs(self, args: dict[str, Any], previous_stage_result: Any) -> Generator[BoardJob, None, None]:  # noqa: ANN401
        """Generate the one job of a configuration without grids.

        Yields:
            BoardJob: The job.
        """
        seed_everything(args["seed"], workers=True)
        for job in super().generate_jobs(args | {"model": as_namespace(args["model"])}, previous_stage_result):
            names = ("accelerator", "model", "datamodule", "seed", "flat_cfg")
            yield BoardJob(**{name: getattr(job, name) for name in names}, **self.settings)


def as_namespace(model: dict[str, Any]) -> Namespace:
    """Wrap ``class_path`` and ``init_args`` so that ``get_model`` leaves the arguments as they are.

    Of a dictionary it makes OmegaConf's kind of lists, which then stand in checkpoints that torch refuses to load.
    """
    return Namespace(class_path=model["class_path"], init_args=model.get("init_args") or {})


def run_job(folder: Path) -> Row:
    """Run the job of a folder and write its row.

    Args:
        folder: Folder with ``job.json``: ``job`` (:class:`~anomalib_anoseg.board.run.run_folder.Job`),
            ``container`` (its part of the grid), ``trainer``, ``offline`` and ``save_every``.
    """
    started, clock = datetime.now(timezone.utc), time.perf_counter()
    task = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    job = Job(**task["job"])
    with no_network() if task["offline"] else nullcontext():
        settings = {name: task[name] for name in ("trainer", "save_every")}
        generator = BoardJobGenerator(job.accelerator, folder=folder, budget=job.budget, **settings)
        (board_job,) = generator.generate_jobs(adapt(task["container"], job.budget), None)
        try:
            found = board_job.run()
        except Exception:
            # What could not be taken up must not stop every later attempt; what was trained is tested again.
            if board_job.resumed and not (folder / "work" / "trained.json").is_file():
                shutil.rmtree(folder / "work")
            raise
    finished = datetime.now(timezone.utc)
    model = board_job.model
    provenance = describe_surroundings() | {
        "accelerator": job.accelerator,
        "precision": found.pop("precision"),
        "held_out": found.pop("held_out"),
        "trainer": task["trainer"],
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        "wall_seconds": time.perf_counter() - clock,
        "resumed": board_job.resumed,
        "calibrated_on": getattr(model.post_processor, "calibrated_on", "none"),
    }
    row = Row(
        id=job.id,
        label=job.label,
        model=class_path(type(model)),
        dataset=job.dataset,
        category=job.category or getattr(board_job.datamodule, "category", None) or "",
        seed=job.seed,
        settings=job.settings,
        trivial=protocol.is_trivial(model),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        provenance=provenance,
        accelerator=job.accelerator,
        budget=job.budget,
        data_label=job.data_label,
        data=job.data,
        trainer=job.trainer,
        **found,
    )
    RunFolder(folder.parents[1]).write_row(row)
    shutil.rmtree(folder / "work")
    return row


def find_left_out(models: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Build each model without a network, and tell why those cannot be built that lack a file.

    Args:
        models: ``class_path`` and ``init_args`` by label.

    Returns:
        One line by label; what fails for another reason is no model that is left out, but a job that will fail.
    """
    reasons = {label: _why_left_out(model) for label, model in models.items()}
    return {label: reason for label, reason in reasons.items() if reason}


def _why_left_out(model: dict[str, Any]) -> str | None:
    try:
        with no_network():
            get_model(as_namespace(model))
    except Exception as failure:  # noqa: BLE001 - its job will tell
        error: BaseException | None = failure
        while error is not None:
            if isinstance(error, OfflineError | FileNotFoundError):
                return " ".join(str(error).split())
            error = error.__cause__ or error.__context__
    return None


def main() -> None:
    """Run the job, or look at the models, of a folder or file named on the command line.

    Raises:
        SystemExit: With 1 if the job failed; ``error.txt`` then says why.
    """  # noqa: DOC502
    _end_with_parent()
    path = Path(sys.argv[1])
    if path.is_file():
        write_json(path, find_left_out(json.loads(path.read_text(encoding="utf-8"))))
        return
    try:
        run_job(path)
    except BaseException as error:  # noqa: BLE001 - whatever it was
        summary = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        (path / "error.txt").write_text(f"{traceback.format_exc()}\n{summary}\n", encoding="utf-8")
        traceback.print_exc()
        sys.exit(1)


def _end_with_parent() -> None:
    """Do not go on beside a second board if this one's process is killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
