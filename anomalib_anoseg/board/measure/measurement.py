"""One job under measurement: its model in all forms, with the cost and accuracy of each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from anomalib_anoseg.board.run.rebuild import load_job
from anomalib_anoseg.common.messages import one_line
from anomalib_anoseg.deploy.accuracy import measure_accuracy
from anomalib_anoseg.deploy.forms import export_forms, size_of_file_mb
from anomalib_anoseg.deploy.latency import Worker, WorkerError, summarise
from anomalib_anoseg.deploy.pictures import Pictures
from anomalib_anoseg.deploy.runtimes import FORMS, Form, load_runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress

    from anomalib_anoseg.board.run.run_folder import Row

__all__ = ["JobCost"]


class JobCost:
    """Collects the figures of one job.

    Args:
        row (Row): The job's row.
        folder (Path): The job's folder.
        wants_latency (bool): Whether latency and memory are measured, too.

    Attributes:
        figures: What the job's ``cost.json`` says of the model.
        left_out: Reasons in one line, by what is missing.
    """

    def __init__(self, row: Row, folder: Path, wants_latency: bool) -> None:
        self.row, self.folder, self.wants_latency = row, folder, wants_latency
        undefined: dict[str, Any] = dict.fromkeys(("parameters", "macs", "image_size", "calibration_images"))
        measured: dict[str, Any] = {"files_mb": {}, "latency": [], "accuracy": [], "peak_memory_mb": {}}
        self.figures = {**undefined, **measured, "latency_measured": wants_latency}
        self.left_out: dict[str, str] = {}
        self.files: dict[Form, Path] = {}
        self._in_use: dict[Form, str] = {}
        self._pictures_file = Path()

    @property
    def path(self) -> Path:
        """The file that the figures go to."""
        return self.folder / "cost.json"

    @property
    def title(self) -> str:
        """The job in words."""
        return ", ".join((self.row.label, self.row.data_name, f"seed {self.row.seed}"))

    def export(self, folder: Path, batch: int, calibration_images: int, threads: int, progress: Progress) -> None:
        """Export the model, and pictures for the largest ``batch``, into a folder; measure file sizes and accuracy."""
        task = progress.add_task(f"{self.title}: exporting", total=None)
        try:
            pictures = self._export(folder, batch, calibration_images)
        except Exception as error:  # noqa: BLE001 - the other jobs shall still be measured
            self.left_out = dict.fromkeys((form.name for form in FORMS), one_line(error))
            self.files = {}
        else:
            for form, path in self.files.items():
                self.figures["files_mb"][form.file] = round(size_of_file_mb(path), 3)
            progress.update(task, total=len(pictures) * len(self.files))
            for form in list(self.files):
                progress.update(task, description=f"{self.title}: accuracy of {form.name}")
                self._measure_accuracy(form, pictures, threads, lambda done: progress.advance(task, done))
        finally:
            progress.remove_task(task)

    def start_workers(self, threads: int) -> dict[Form, Worker]:
        """Start a process for each form that works, and note its memory."""
        workers: dict[Form, Worker] = {}
        for form, path in self.files.items() if self.wants_latency else ():
            try:
                workers[form] = Worker(form, path, self._pictures_file, threads)
            except WorkerError as error:
                self.left_out[form.name] = one_line(str(error))
                continue
            self._in_use[form] = workers[form].in_use
            if workers[form].peak_memory_mb is not None:
                self.figures["peak_memory_mb"][form.name] = round(workers[form].peak_memory_mb or 0, 1)
        return workers

    def add_latency(self, form: Form, batch: int, samples: Sequence[Sequence[float]]) -> None:
        """Note the milliseconds of each call by round."""
        known = {**form._asdict(), "in_use": self._in_use[form], "batch": batch}
        self.figures["latency"].append(known | summarise(samples))

    def _export(self, folder: Path, batch: int, calibration_images: int) -> Pictures:
        model, datamodule = load_job(self.folder, self.row)
        pictures = Pictures(datamodule, model)
        calibration = pictures.for_calibration(calibration_images)
        self.files, self.left_out = export_forms(model, folder, pictures.input_size, lambda: calibration)
        first = next(pictures.for_test(batch)).image.numpy()
        self._pictures_file = folder / "pictures.npy"  # for the processes; repeated if there are fewer
        np.save(self._pictures_file, np.resize(first, (batch, *first.shape[1:])))
        self.figures |= {"image_size": list(pictures.size), "calibration_images": len(calibration)}
        self._count(model)
        return pictures

    def _count(self, model: Any) -> None:  # noqa: ANN401
        """Count parameters and multiply-adds of the exported model, without the parts that only training needs."""
        path = self.files.get(Form("torch", "float32"))
        shipped: Any = torch.load(path, weights_only=False)["model"] if path else model
        picture = torch.zeros(1, 3, *self.figures["image_size"])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            shipped.eval()(picture)
        self.figures["parameters"] = sum(weight.numel() for weight in shipped.parameters())
        self.figures["macs"] = counter.get_total_flops() // 2

    def _measure_accuracy(self, form: Form, pictures: Pictures, threads: int, advance: Any) -> None:  # noqa: ANN401
        try:
            runtime = load_runtime(form, self.files[form], threads)
            accuracy = measure_accuracy(runtime, pictures.for_test(), advance)
        except Exception as error:  # noqa: BLE001 - the other forms shall still be measured
            self.left_out[form.name] = one_line(error)
            del self.files[form]
        else:
            self.figures["accuracy"].append({**form._asdict(), "in_use": runtime.in_use, **accuracy})
