"""Measure how time and memory grow: with the pictures of a training, their size, the batch, and a board's categories.

Each measurement is a process of its own on one thread; times are processor time, memory is the peak of the process.
Pictures are PNG files of the networks' size. Encoders get random weights, which take as long as trained ones. The
exponent of a curve is its slope between its last two points, both axes logarithmic: 1 is linear growth, 0 is none.
Page: scaling.md. With ``--json`` a second run measures what the file lacks.

    python -m benchmarks.performance.scaling [--only size batch categories] [--plot PATH] [--markdown] [--check]
"""

import argparse
import json
import math
import resource
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl
import timm
import torch
import yaml
from lightning.pytorch import Callback
from matplotlib.ticker import FuncFormatter
from PIL import Image

from anomalib_anoseg.board.report.report import write_report
from anomalib_anoseg.board.run.board import run_board
from anomalib_anoseg.common.figures import DASHES, STYLE, add_legend, log_axis, panels, point_style
from anomalib_anoseg.common.memory import forget_peak, peak_memory
from benchmarks.common import begin, clock, exit_status, format_table, make_parser, mean_time, write_json
from benchmarks.experiments.trainings import make_engine, of_preset
from benchmarks.performance.pictures import make_folder, write_pictures

Point = dict[str, float]  # figures by quantity
Curves = dict[str, dict[int, Point]]  # of each subject, by what varies

PRESETS = ("laptop_pretrained", "sgsf_laptop_pretrained")
MEMORY, FILE = "peak memory, MiB", "checkpoint, MB"
READING, REFERENCES, VALIDATION = "reading, s", "references and memory, s", "validation with calibration, s"
STEP, PREDICTION = "training step, ms", "prediction of a picture, ms"
JOBS, REPORT = "jobs, s", "report, s"
VARIED = ("pictures", "size", "batch", "categories")
STEPS, SIDE, HUNDRED = 4, 128, 100
OF_BATCH = (STEP, MEMORY)  # what else is measured depends on the number of pictures, which grows with the batch
# Pictures a step; fewer where their size varies, which else takes more than the memory.
BATCH, SMALL = 8, 2
# What grows is at most linear in what varies: in the number of pixels for the size. Noise moves a slope a little.
STEEPEST, LARGEST = 1.15, 4096.0  # exponent; MiB with the most pictures


class Stages(Callback):
    """Notes at which processor time each stage of a training ends."""

    def __init__(self) -> None:
        self.start = clock()
        self.ends: dict[str, float] = {}
        self.steps: list[float] = []

    def on_fit_start(self, *_: object) -> None:
        """All pictures were read."""
        self.ends[READING] = clock()

    def on_train_start(self, *_: object) -> None:
        """References were chosen."""
        self.ends[REFERENCES] = clock()

    def on_train_batch_start(self, *_: object) -> None:
        """Begin a step."""
        self.steps.append(-clock())

    def on_train_batch_end(self, *_: object) -> None:
        """End a step."""
        self.steps[-1] += clock()

    def on_validation_start(self, *_: object) -> None:
        """Begin a validation; the last one counts."""
        self.ends["training"] = clock()

    def on_validation_end(self, *_: object) -> None:
        """End it."""
        self.ends[VALIDATION] = clock()

    def figures(self) -> Point:
        """Return the seconds of each stage, and the milliseconds of a step after the first."""
        ends = {"start": self.start, **self.ends}
        taken = {name: end - begin for begin, (name, end) in zip(ends.values(), list(ends.items())[1:], strict=False)}
        rest = sorted(self.steps[1:])
        return {name: taken[name] for name in (READING, REFERENCES, VALIDATION)} | {STEP: 1e3 * rest[len(rest) // 2]}


def train(preset: str, folder: Path, weights: Path, size: int, batch: int) -> Point:
    """Train for four steps, validate, save, and predict a picture."""
    torch.set_num_threads(1)
    model = of_preset(preset, weights, {"image_size": [size, size]}, seed=0)
    data, stages = make_folder(folder, batch=batch), Stages()
    with TemporaryDirectory() as results:
        lengths = {"max_epochs": 1, "limit_train_batches": STEPS, "num_sanity_val_steps": 0}
        engine = make_engine(Path(results), callbacks=[stages], **lengths)
        forget_peak()
        engine.fit(model, datamodule=data)
        path = Path(results, "model.ckpt")
        engine.trainer.save_checkpoint(path)
        figures = stages.figures() | {MEMORY: peak_memory() or math.nan, FILE: path.stat().st_size / 1e6}
    with torch.inference_mode():
        return figures | {PREDICTION: mean_time(partial(model.eval(), torch.rand(1, 3, size, size)))}


def run_categories(count: int, out: Path) -> Point:
    """Run a board with a job a category, of the model that learns nothing, and write its report."""
    data = {"class_path": "anomalib_anoseg.data.DemoTextures", "init_args": {"num_train": 12, "num_test_good": 2}}
    model = {"class_path": "anomalib_anoseg.board.baselines.ConstantMap", "init_args": {"image_size": [64, 64]}}
    categories = [{"label": f"category {number}", **data} for number in range(count)]
    grid = {"seed": 0, "model": model, "data": {"grid": categories}}
    out.mkdir()
    path = out / "board.yaml"
    path.write_text(yaml.safe_dump({"accelerator": "cpu", "benchmark": grid}), encoding="utf-8")
    forget_peak()
    missing = run_board(path, out / "runs")
    if missing:
        raise RuntimeError(f"{len(missing)} of {count} jobs failed. Read the logs in {out / 'runs'}.")
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = clock()
    write_report([out / "runs"], out / "report")
    return {
        JOBS: spent.ru_utime + spent.ru_stime,
        REPORT: clock() - start,
        MEMORY: peak_memory() or math.nan,
    }


def alone(call: Callable[[], Point]) -> Point:
    """Call in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(call).result()


def points(what: str, options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, int, Callable[[], Point]]]:
    """List what measures the points of what varies.

    Yields:
        tuple[str, int, Callable[[], Point]]: Subject, what varies, and the measurement.
    """
    for value in getattr(options, what):
        if what == "categories":
            yield "a board", value, partial(run_categories, value, folder / f"categories{value}")
            continue
        side, batch = (value, SMALL) if what == "size" else (SIDE, value if what == "batch" else BATCH)
        count = value if what == "pictures" else 5 * max(batch, BATCH)
        for preset in options.presets:
            yield preset, value, partial(train_on, count, side, batch, options.seed, preset, folder)


def train_on(count: int, side: int, batch: int, seed: int, preset: str, folder: Path) -> Point:
    """Train on so many pictures of the networks' size, which are written unless they are there."""
    pictures = folder / f"{count}x{side}"
    if not pictures.exists():
        write_pictures(pictures, count, side * side / 1e6, seed)
    return train(preset, pictures, folder / "weights.pth", side, batch)


def read(path: Path | None) -> dict[str, Curves]:
    """Read what an earlier run has measured."""
    if path is None or not path.exists():
        return {}
    curves = json.loads(path.read_text(encoding="utf-8"))["curves"]
    return {
        what: {subject: {int(value): point for value, point in points.items()} for subject, points in found.items()}
        for what, found in curves.items()
    }


def exponents(points: dict[int, Point], what: str) -> Point:
    """Return the slope of each quantity between the last two points; NaN where one alone was measured."""
    if len(points) == 1:
        return dict.fromkeys(next(iter(points.values())), math.nan)
    (x, before), (last, after) = list(points.items())[-2:]
    growth = math.log(last / x) * (2 if what == "size" else 1)  # of the pixels
    return {name: math.log(after[name] / before[name]) / growth for name in after}


def tabulate(curves: Curves, what: str) -> list[list[str]]:
    """Tabulate a row for each subject and quantity: a column a point, and the exponent."""
    varied = next(iter(curves.values()))
    lines = [[what, *(f"{value:,}" for value in varied), "exponent"]]
    for subject, points in curves.items():
        slopes = exponents(points, what)
        for name in slopes:
            values = [point[name] for point in points.values()]
            cells = [f"{value:,.3g}" if value < HUNDRED else f"{value:,.0f}" for value in values]
            lines.append([f"{subject}: {name}", *cells, f"{slopes[name]:.2f}"])
    return lines


def judge(found: dict[str, Curves]) -> Iterator[tuple[str, str]]:
    """Compare exponents, and the memory of the most pictures, with what is required.

    Yields:
        tuple[str, str]: The outcome, and what was compared.
    """
    for what, curves in found.items():
        for subject, points in curves.items():
            for name, slope in exponents(points, what).items():
                outcome = "passed" if slope <= STEEPEST else "FAILED"
                yield outcome, f"{subject}, {name} by {what}: exponent {slope:.2f}, allowed {STEEPEST}"
            if what == "pictures":
                peak = list(points.values())[-1][MEMORY]
                outcome = "passed" if peak <= LARGEST else "FAILED"
                yield outcome, f"{subject}, {max(points):,} pictures: {peak:,.0f} MiB, allowed {LARGEST:,.0f}"


def plot(found: dict[str, Curves], path: Path) -> None:
    """Draw all quantities against what varies; lines of the first preset are solid, of the second dashed."""
    with mpl.rc_context(STYLE):
        figure, axes = panels(len(found), 3.2)
        handles: dict[str, Any] = {}
        for axis, (what, curves) in zip(axes, found.items(), strict=True):
            for dashes, points in zip(DASHES, curves.values(), strict=False):
                for name in next(iter(points.values())):
                    style = point_style(list(handles).index(name) if name in handles else len(handles))
                    values = [point[name] for point in points.values()]
                    (drawn,) = axis.plot(list(points), values, **style | {"linestyle": dashes})
                    handles.setdefault(name, drawn)
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            log_axis(axis, what, f"by {what}")
            axis.set_xticks(list(next(iter(curves.values()))))
        add_legend(figure, handles)
        figure.savefig(path, dpi=80, pil_kwargs={"lossless": True})
    Image.open(path).quantize(12).save(path, optimize=True, lossless=True, method=6)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__, "seed", "markdown", "check")
    parser.add_argument("--only", nargs="+", choices=VARIED, help="what varies")
    parser.add_argument("--pictures", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--size", type=int, nargs="+", default=[128, 256, 512, 1024], help="sides in pixels")
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--categories", type=int, nargs="+", default=[1, 2, 4, 8], help="of a board")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--plot", type=Path, metavar="PATH", help="write a picture of the curves")
    return parser.parse_args()


def main() -> int:
    """Measure, print, and return the exit status."""
    options = arguments()
    begin(options)
    found = read(options.json)
    with TemporaryDirectory() as folder:
        torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), Path(folder, "weights.pth"))
        for what in options.only or VARIED:
            curves = found.setdefault(what, {})
            for subject, value, call in points(what, options, Path(folder)):
                if value not in curves.setdefault(subject, {}):
                    point = alone(call)
                    curves[subject][value] = {name: point[name] for name in OF_BATCH} if what == "batch" else point
                    write_json(options, curves=found)
                    print(f"{subject}, {what} {value}: {curves[subject][value]}", file=sys.stderr, flush=True)
            print(format_table(tabulate(curves, what), markdown=options.markdown) + "\n", flush=True)
    verdicts = list(judge(found))
    print(*(f"{outcome}: {text}" for outcome, text in verdicts), sep="\n")
    if options.plot:
        plot(found, options.plot)
    return exit_status({outcome for outcome, _ in verdicts}) if options.check else 0


if __name__ == "__main__":
    sys.exit(main())
