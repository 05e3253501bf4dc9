"""Measure what a picture costs in each runtime, precision and batch, all models in turns.

Jobs of a board come with their trained weights. EfficientAD-S, DRAEM and SuperSimpleNet on its published backbone have
random ones, which take as long, and no INT8. Pictures are noise, on which no time depends. Times on one thread are
processor time, which other processes do not stretch; on more, wall time: then leave the machine alone. Page:
runtimes.md. With ``--json`` a second run measures what the file lacks.

    python -m benchmarks.performance.inference runs/inference --markdown
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from anomalib.models import EfficientAd, Supersimplenet

from anomalib_anoseg.board.baselines import LocalDraem
from anomalib_anoseg.board.baselines.local_weights import local_weights
from anomalib_anoseg.board.run.rebuild import load_job
from anomalib_anoseg.board.run.run_folder import RunFolder
from anomalib_anoseg.common.messages import one_line
from anomalib_anoseg.deploy.forms import export_forms
from anomalib_anoseg.deploy.runtimes import FORMS, Form, load_runtime
from benchmarks.common import begin, format_table, in_turns, make_parser, mean_time, write_json

SIZES = {"own": None, "large": (1936, 2581)}  # of pictures: as the networks see them, or five megapixels
TRAINED = [form for form in FORMS if form.runtime != "torch"]
UNTRAINED = [form for form in TRAINED if form.precision != "INT8"]
BATCH = 16  # and pictures on which INT8 is calibrated
EFFICIENT_AD = 256  # its smallest side
Times = dict[str, dict[str, float]]  # milliseconds a picture, by model, by form and batch
Files = dict[tuple[str, Form], Path]


def trained(runs: Path, side: int) -> Iterator[tuple[str, Any]]:
    """Load the models of a board whose pictures have such a side.

    Yields:
        tuple[str, Any]: Label and model.
    """
    folder = RunFolder(runs)
    for row in folder.rows():
        model, _ = load_job(folder.job_folder(row.id), row)
        if model.pre_processor.transform.transforms[0].size[0] == side:
            yield row.label, model


def untrained(side: int) -> Iterator[tuple[str, Any]]:
    """Make models with random weights.

    Yields:
        tuple[str, Any]: Name and model.
    """
    size = side, side
    if side >= EFFICIENT_AD:
        yield "EfficientAD-S", EfficientAd(pre_processor=EfficientAd.configure_pre_processor(size))
    yield "DRAEM", LocalDraem("hard_cut_paste", image_size=size)
    backbone, pre_processor = "wide_resnet50_2", Supersimplenet.configure_pre_processor(size)
    with local_weights(backbone, "random"):
        yield "SuperSimpleNet (WRN50)", Supersimplenet(backbone=backbone, pre_processor=pre_processor)


def measure(side: int, size: tuple[int, int], options: argparse.Namespace) -> Times:
    """Measure all models at one size of the networks and one of the pictures."""
    pictures = torch.rand(BATCH if size == (side, side) else 1, 3, *size)
    with TemporaryDirectory() as name:
        quick: Files = {}
        for label, model in trained(options.runs, side) if options.runs else ():
            quick |= export(label, model, Path(name, label), size, pictures, TRAINED)
        slow: Files = {}
        for label, model in untrained(side) if options.untrained else ():
            slow |= export(label, model, Path(name, label), size, pictures, UNTRAINED)
        times = take_turns({**quick, **slow}, pictures[:1], options)
        return times if size != (side, side) else take_turns(quick, pictures, options, times)


def export(
    label: str,
    model: Any,  # noqa: ANN401
    folder: Path,
    size: tuple[int, int],
    pictures: torch.Tensor,
    forms: Sequence[Form],
) -> Files:
    """Export a model for pictures of one size; say what cannot be."""
    folder.mkdir()
    files, left_out = export_forms(model, folder, size, lambda: list(pictures), forms)
    say(f"exported {label}; left out: {left_out}")
    return {(label, form): path for form, path in files.items()}


def take_turns(files: Files, pictures: torch.Tensor, options: argparse.Namespace, times: Times | None = None) -> Times:
    """Let all files that can be run take turns; return the milliseconds a picture."""
    turns: dict[str, Callable[[], float]] = {}
    for (label, form), path in files.items():
        predict = partial(load_runtime(form, path, options.threads).predict, pictures.numpy())
        try:
            predict()
        except Exception as error:  # noqa: BLE001 - each library fails in its own way
            say(f"left out: {label}, {form.name}, {len(pictures)}: {one_line(error)}")
        else:
            turns[f"{label}: {form.name}, {len(pictures)}"] = partial(mean_time, predict)
    times = {} if times is None else times
    for name, samples in in_turns("ms", turns, options.rounds).items():
        label, _, column = name.partition(": ")
        times.setdefault(label, {})[column] = round(statistics.median(samples) / len(pictures), 1)
    return times


def say(line: str) -> None:
    """Tell of what happens on the way."""
    print(line, file=sys.stderr, flush=True)


def scene(side: int, pictures: str, threads: int) -> str:
    """Name what all models are measured at."""
    more = f", {threads} threads" if threads > 1 else ""
    return f"{side} pixels{', from 5 megapixels' if pictures == 'large' else ''}{more}"


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__, "threads", "markdown")
    parser.add_argument("runs", type=Path, nargs="?", help="folder of a board; without it, random weights alone")
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 256], help="of the networks' pictures, in pixels")
    parser.add_argument("--pictures", nargs="+", choices=SIZES, default=list(SIZES), help="size of what is read")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each form (default: 3)")
    parser.add_argument("--no-untrained", dest="untrained", action="store_false", help="jobs of the board alone")
    return parser.parse_args()


def main() -> None:
    """Measure, and print."""
    options = arguments()
    begin(options)
    earlier = json.loads(options.json.read_text("utf-8")) if options.json and options.json.exists() else {}
    scenes: dict[str, Times] = earlier.get("milliseconds a picture", {})
    for side, pictures in product(options.sides, options.pictures):
        name = scene(side, pictures, options.threads)
        if name not in scenes:
            scenes[name] = measure(side, SIZES[pictures] or (side, side), options)
            write_json(options, **{"milliseconds a picture": scenes})
    for title, times in scenes.items():
        print(format_table(tabulate(title, times), markdown=options.markdown) + "\n")


def tabulate(title: str, times: Times) -> list[list[str]]:
    """Make a row of each model: milliseconds a picture by form, alone and, where that was measured, in a batch."""
    forms = list(dict.fromkeys(column.partition(", ")[0] for by_form in times.values() for column in by_form))
    table = [[title, *forms]]
    for label, by_form in times.items():
        pairs = [[str(by_form.get(f"{form}, {batch}", "")) for batch in (1, BATCH)] for form in forms]
        table.append([label, *(" / ".join(pair).removesuffix(" / ") for pair in pairs)])
    return table


if __name__ == "__main__":
    main()
