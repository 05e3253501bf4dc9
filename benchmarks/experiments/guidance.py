"""Measure what SGSF's references gain and cost at inference, by their number, choice and storage.

All of these can be changed after training, so each form of the bank is put into the same trained networks:

- accuracy is that of anomalib's own test, without figures that need a threshold;
- difference is the largest one, over all test images and pixels, between the anomaly map, in `[0, 1]`, and that of the
  same 16 references with features computed in float32, so it is the rounding of stored features;
- file is the size of the ONNX export, and time is ONNX Runtime's for an image that needs no resizing: one thread,
  processor time, medians of rounds in which all forms take turns. `single` has neither extractor nor look-up, so what
  `nearest` takes in addition is the cost of the look-up.

Trainings are job folders of a board. Run this where the board ran, because their data may have relative paths. Without
any, a model is trained on the demonstration data for `--steps`, for sizes and times at any width. Page: guidance.md.

    python -m benchmarks.experiments.guidance [JOB ...] [--rounds 10] [--json guidance.json] [--markdown]
    python -m benchmarks.experiments.guidance --size 256 --width 1 --steps 1
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from anomalib_anoseg import SGSF
from anomalib_anoseg.board.report.statistics import half_width
from anomalib_anoseg.board.run.rebuild import load_job
from anomalib_anoseg.data import DemoTextures
from anomalib_anoseg.deploy.forms import size_of_file_mb
from anomalib_anoseg.deploy.runtimes import Form, load_runtime
from anomalib_anoseg.models.sgsf.references import ReferenceSet, collect_references
from benchmarks.common import begin, by_group, format_table, make_parser, mean_time, write_json
from benchmarks.experiments.trainings import finished, make_engine

METRICS = {
    "image_AUROC": "image AUROC",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AUPR": "pixel AP",
    "pixel_AUPRO": "AUPRO",
    "pixel_BestIoU": "best IoU",
}
DIFFERENCE, FILE, TIME = "difference", "file, MB", "time, ms"
ALL = 10**6
Figures = dict[str, dict[str, float]]  # by form and quantity


class Bank(NamedTuple):
    """A form of the bank."""

    size: int = 16
    method: Any = "k_center"
    settings: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """Name what differs from the first form."""
        size = "all" if self.size == ALL else str(self.size)
        choice = f"{size} by {self.method}"
        return ", ".join([choice, *(f"{name}={value}" for name, value in self.settings)])


EXACT, SHIPPED, SINGLE = (
    Bank(settings=(("bank.features", "computed"),)),
    Bank(),
    Bank(settings=(("guidance.kind", "single"),)),
)
BANKS = [
    EXACT,
    SHIPPED,
    SINGLE,
    Bank(settings=(("guidance.kind", "single"), ("bank.features", "computed"))),
    Bank(settings=(("bank.precision", "float32"),)),
    *(Bank(size) for size in (2, 4, 8, ALL)),
    Bank(4, "k_means"),
]


class Training(NamedTuple):
    """A trained model's checkpoint, and the data that it learned from and is tested on."""

    name: str
    checkpoint: Path
    data: Any

    def load(self, bank: Bank, references: ReferenceSet | None = None) -> SGSF:
        """Load the model, with another choice of references if they are given."""
        settings = by_group({"bank.limit": 1e6, "visualizer": False, **dict(bank.settings)})
        model: Any = SGSF.load_from_checkpoint(self.checkpoint, map_location="cpu", **settings)
        if references is not None:
            model.model.fill_bank(*references.choose_bank(bank.size, bank.method, seed=0))
        return model.eval()

    def collect(self) -> ReferenceSet:
        """Collect the references as at the start of a training."""
        model: Any = self.load(SHIPPED)
        self.data.setup()
        transforms = [self.data.test_augmentations, model.pre_processor.transform]
        return collect_references(self.data.train_data, transforms, model.model.embed, None)


def find_trainings(options: argparse.Namespace, folder: Path) -> list[Training]:
    """Find what boards have trained, or train a model."""
    if not options.jobs:
        return [train(options, folder)]
    return [Training(path.name, path / "model.ckpt", load_job(path, finished(path))[1]) for path in options.jobs]


def train(options: argparse.Namespace, folder: Path) -> Training:
    """Train a model on the demonstration data."""
    shape: dict[str, Any] = {"num_train": 24, "num_test_good": 4, "num_test_per_defect": 1}
    batches: dict[str, Any] = {"train_batch_size": 4, "eval_batch_size": 4, "val_split_ratio": 0.2}
    data = DemoTextures(root=folder, image_size=96, **shape, **batches)
    settings: dict[str, Any] = {"network": {"width": options.width}, "bank": {"limit": 1e6}}
    model = SGSF((options.size, options.size), **settings, visualizer=False)
    engine = make_engine(folder, max_steps=options.steps, max_epochs=-1)
    engine.fit(model, datamodule=data)
    engine.trainer.save_checkpoint(folder / "model.ckpt", weights_only=True)
    return Training("demonstration", folder / "model.ckpt", data)


def judge(model: SGSF, data: Any, folder: Path) -> tuple[dict[str, float], Tensor]:  # noqa: ANN401
    """Test a model; return its figures and the anomaly maps of all test images, not normalised."""
    [found] = make_engine(folder).test(model, datamodule=data, verbose=False)
    accuracy = {name: float(found[metric]) for metric, name in METRICS.items() if metric in found}
    pre_processor: Any = model.pre_processor
    with torch.inference_mode():
        maps = [
            model.model.eval()(pre_processor.transform(batch.image)).anomaly_map for batch in data.test_dataloader()
        ]
    return accuracy, torch.cat(maps)


def export(model: SGSF, folder: Path) -> tuple[float, Callable[[], object]]:
    """Export a model; return the file's size and what predicts an image from it."""
    path = model.to_onnx(folder)
    runtime = load_runtime(Form("onnxruntime", "float32"), path, threads=1)
    image = np.random.default_rng(0).random((1, 3, *model.image_size), np.float32)
    return size_of_file_mb(path), partial(runtime.predict, image)


def measure(training: Training, options: argparse.Namespace, folder: Path) -> Figures:
    """Measure all forms of one trained model's bank."""
    references = training.collect()
    figures: Figures = {}
    turns: dict[str, Callable[[], object]] = {}
    exact: Tensor | None = None
    for number, bank in enumerate(BANKS[:3] if options.quick else BANKS):
        model = training.load(bank, None if bank.size == SHIPPED.size else references)
        accuracy, maps = judge(model, training.data, folder)
        exact = maps if exact is None else exact
        size, turns[str(bank)] = export(model, folder / str(number))
        figures[str(bank)] = accuracy | {DIFFERENCE: (maps - exact).abs().max().item(), FILE: size}
    samples = [{name: mean_time(turn) for name, turn in turns.items()} for _ in range(options.rounds)]
    for name, values in figures.items():
        values[TIME] = statistics.median(sample[name] for sample in samples)
        values[f"added {TIME}"] = statistics.median(sample[name] - sample[str(SINGLE)] for sample in samples)
    return figures


def table(figures: dict[str, Figures], options: argparse.Namespace) -> str:
    """Format means over trainings, and of accuracies the difference to what is shipped with its 95 % interval."""
    first = next(iter(figures.values()))
    titles = list(first[str(SHIPPED)])
    lines = [["references", *titles]]
    lines += [[name, *cells(figures, name, titles)] for name in first]
    return format_table(lines, markdown=options.markdown)


def cells(figures: dict[str, Figures], name: str, titles: list[str]) -> Iterator[str]:
    """Format the figures of one form of the bank."""
    for title in titles:
        values = pd.Series([of_training[name][title] for of_training in figures.values()])
        if title == DIFFERENCE:
            yield f"{values.max():.1e}"
        elif title not in METRICS.values():
            yield f"{values.median():.3g}"
        else:
            shipped = pd.Series([of_training[str(SHIPPED)][title] for of_training in figures.values()])
            change = values - shipped
            interval = (
                f" ({change.mean():+.3f} ± {half_width(change.sem(), len(change)):.3f})" if len(change) > 1 else ""
            )
            yield f"{values.mean():.3f}{interval}"


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "markdown")
    parser.add_argument("jobs", type=Path, nargs="*", help="job folders of a board; if none, a model is trained")
    parser.add_argument("--rounds", type=int, default=10, help="rounds in which all forms take turns (default: 10)")
    parser.add_argument("--size", type=int, default=128, help="without jobs: side of the images (default: 128)")
    parser.add_argument("--width", type=float, default=0.25, help="without jobs: width of the networks (default: 0.25)")
    parser.add_argument("--steps", type=int, default=100, help="without jobs: steps of the training (default: 100)")
    parser.add_argument("--quick", action="store_true", help="a trial: only the first forms")
    return parser.parse_args()


def main() -> None:
    """Measure all forms of the bank in all trained models."""
    options = parse_options()
    begin(options)
    figures: dict[str, Figures] = {}
    with TemporaryDirectory() as name:
        for number, training in enumerate(find_trainings(options, Path(name))):
            figures[training.name] = measure(training, options, Path(name) / f"training {number}")
    write_json(options, figures=figures)
    print(table(figures, options))


if __name__ == "__main__":
    main()
