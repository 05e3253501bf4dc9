"""One job of a board, in a process of its own.

Each job has its own process, so that its peak memory is its own, and so that a crash, or a kill by the operating system
for lack of memory, does not end the board. :mod:`~anomalib_anoseg.board.run.board` starts it with the job's folder,
where ``job.json`` says what to do.
"""

import json
import math
import os
import shutil
import sys
import threading
import time
import traceback
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.engine import Engine
from anomalib.models import get_model
from anomalib.models.components import AnomalibModule
from jsonargparse import Namespace
from lightning import seed_everything

import anomalib_anoseg
from anomalib_anoseg.board.run import protocol
from anomalib_anoseg.board.run.adapting import adapt, check_held_out
from anomalib_anoseg.board.run.recording import TestRecorder
from anomalib_anoseg.board.run.run_folder import Job, Row, RunFolder
from anomalib_anoseg.common.files import write_json, write_texts
from anomalib_anoseg.common.machine import describe_machine, package_versions, read_commit
from anomalib_anoseg.common.memory import forget_peak, peak_memory
from anomalib_anoseg.common.messages import one_line
from anomalib_anoseg.common.offline import OfflineError, no_network
from anomalib_anoseg.deploy.rebuild import class_path
from anomalib_anoseg.training.budget import BudgetTimer, Stopwatch, TrainingMeter
from anomalib_anoseg.training.file_checks import check_data_files
from anomalib_anoseg.training.final_validation import NEVER
from anomalib_anoseg.training.resume_point import ResumePoint

PACKAGES = ("anomalib", "kornia", "lightning", "numpy", "timm", "torch", "torchmetrics", "torchvision")
# Number of epochs with a budget of time: schedules need a number, but no training reaches it.
ENDLESS = 100_000
EVALUATION_PRECISION = "32-true"


class JobRun:
    """Trains and tests a model as its job says, continues where an earlier attempt stopped, and keeps records.

    ``trainer`` holds arguments of Lightning's trainer; ``save_every`` is the least number of seconds between two
    checkpoints of a training.
    """

    def __init__(
        self,
        job: Job,
        folder: Path,
        model: AnomalibModule,
        datamodule: AnomalibDataModule,
        trainer: dict[str, Any],
        save_every: float,
    ) -> None:
        self.model, self.datamodule, self.trainer, self.save_every = model, datamodule, trainer, save_every
        self.accelerator, self.folder, self.work = job.accelerator, folder, folder / "work"
        # A budget would cut short models that learn in one pass over the images, and leave half a memory bank.
        self.budget = {} if model.trainer_arguments.get("max_epochs") == 1 else job.budget or {}
        self.resumed = False
        self.found: dict[str, Any] = {}
        self.meter = TrainingMeter(self.work / "progress.json", self.budget.get("images"))
        self.recorder = TestRecorder(folder)

    def run(self) -> dict[str, Any]:
        """Train, unless an earlier attempt has done that, and test from the checkpoint that is kept."""
        protocol.apply(self.model)
        self.model.visualizer = self.recorder  # type: ignore[assignment]
        trained = self.work / "trained.json"
        if trained.is_file() and is_zipfile(self.folder / "model.ckpt"):  # whole
            self.resumed = True
        else:
            self._train()
            write_json(trained, {"training": self.meter.figures(), **self.found})
        forget_peak(self.accelerator)
        results = self._evaluation_engine().test(
            self.model, datamodule=self.datamodule, ckpt_path=self.folder / "model.ckpt"
        )
        return {
            "metrics": protocol.as_figures(dict(results[0])),
            "defects": self.recorder.defects(),
            **json.loads(trained.read_text(encoding="utf-8")),
            "test_memory_mb": peak_memory(self.accelerator),
        }

    def _train(self) -> None:
        self.datamodule.prepare_data()
        self.datamodule.setup()
        check_data_files(getattr(self.datamodule, f"{name}_data", None) for name in ("train", "val", "test"))
        self.found["held_out"] = check_held_out(self.datamodule)
        callbacks = [self.meter, ResumePoint(self.work / "training", self.save_every, self.meter.stopwatch)]
        if "seconds" in self.budget:
            callbacks.append(BudgetTimer(self.budget["seconds"], self.budget["clock"], self.meter.stopwatch))
        engine = self._engine(*callbacks)
        checkpoint = ResumePoint.latest(self.work / "training")
        self.resumed = checkpoint is not None
        engine.fit(self.model, datamodule=self.datamodule, ckpt_path=checkpoint)
        self.found["peak_memory_mb"] = peak_memory(self.accelerator)
        self._evaluation_engine().validate(self.model, datamodule=self.datamodule, verbose=False)
        engine.trainer.save_checkpoint(self.folder / "model.ckpt", weights_only=True)

    def _evaluation_engine(self) -> Engine:
        """Make the engine that calibrates and tests: in one precision for all, however a model was trained.

        In bfloat16 the scores of different images tie.
        """
        return self._engine(ResumePoint(self.work / "training", math.inf, Stopwatch()), precision=EVALUATION_PRECISION)

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
        if not self.budget:
            return {}
        timed = "seconds" in self.budget
        epochs = ENDLESS if timed else math.ceil(self.budget["images"] / len(self.datamodule.train_data))
        return {"max_epochs": epochs, "max_steps": -1, "max_time": None}


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
        container = adapt(task["container"], job.budget)
        seed_everything(job.seed, workers=True)
        model, datamodule = build_model(container["model"]), get_datamodule(container["data"])
        run = JobRun(job, folder, model, datamodule, task["trainer"], task["save_every"])
        try:
            found = run.run()
        except Exception:
            # A state that cannot be resumed must not stop every later attempt; a trained model is tested again.
            if run.resumed and not (folder / "work" / "trained.json").is_file():
                shutil.rmtree(folder / "work")
            raise
    commit, dirty = read_commit(Path(__file__).parent)
    provenance: Any = describe_machine() | {
        "commit": commit,
        "dirty": dirty,
        "versions": {"anomalib-anoseg": anomalib_anoseg.__version__} | package_versions(PACKAGES),
        "accelerator": job.accelerator,
        "precision": run.trainer.get("precision", EVALUATION_PRECISION),
        "held_out": found.pop("held_out"),
        "trainer": task["trainer"],
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "wall_seconds": time.perf_counter() - clock,
        "resumed": run.resumed,
        "calibrated_on": getattr(model.post_processor, "calibrated_on", "none"),
    }
    of_model = {
        "model": class_path(type(model)),
        "category": job.category or getattr(datamodule, "category", None) or "",
        "trivial": protocol.is_trivial(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    row = Row(**vars(job) | of_model, provenance=provenance, **found)
    RunFolder(folder.parents[1]).write_row(row)
    shutil.rmtree(folder / "work")
    return row


def build_model(model: dict[str, Any]) -> AnomalibModule:
    """Build a model from ``class_path`` and ``init_args``, whose values stay as they are.

    From a dictionary, ``get_model`` makes OmegaConf's lists. Checkpoints would hold them, and torch does not load
    these.
    """
    return get_model(Namespace(class_path=model["class_path"], init_args=model.get("init_args") or {}))


def find_left_out(models: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Build each model, by label, without network access; return a one-line reason for those that lack a file.

    A model that fails for another reason is not left out: its job will fail and report it.
    """
    return {label: why for label, model in models.items() if (why := _why_left_out(model))}


def _why_left_out(model: dict[str, Any]) -> str | None:
    try:
        with no_network():
            build_model(model)
    except Exception as failure:  # noqa: BLE001 - its job will report it
        error: BaseException | None = failure
        while error is not None:
            if isinstance(error, OfflineError | FileNotFoundError):
                return one_line(str(error))
            error = error.__cause__ or error.__context__
    return None


def main() -> None:
    """Run the job of a folder, or check the models of a file, named on the command line.

    Raises:
        SystemExit: With 1 if the job failed; ``error.txt`` then says why.
    """  # noqa: DOC502
    threading.Thread(target=_end_with_parent, args=[os.getppid()], daemon=True).start()
    path = Path(sys.argv[1])
    if path.is_file():
        write_json(path, find_left_out(json.loads(path.read_text(encoding="utf-8"))))
        return
    try:
        run_job(path)
    except BaseException as error:  # noqa: BLE001 - whatever it was
        summary = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        write_texts({path / "error.txt": f"{traceback.format_exc()}\n{summary}\n"})
        traceback.print_exc()
        sys.exit(1)


def _end_with_parent(parent: int) -> None:
    """End this process if its board is killed, so that it does not run beside the next board."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
