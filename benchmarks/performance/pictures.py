"""Measure what reading large pictures adds to a training: read once, read in every epoch, and shrunk beforehand.

First reading alone is timed, in milliseconds a picture, and what it consists of. Then the whole ``fit`` of the
recommended preset is, with its number of steps, from a datamodule that knows no file to the last checkpoint;
``--steps 0`` leaves it out. Pictures are written first: a smooth surface with the noise of a sensor, compressed as fast
as PNG allows.

    python -m benchmarks.performance.pictures --weights datasets/tf_efficientnet_lite0.pth --markdown --check
"""

import argparse
import os
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import timm
import torch
from anomalib.data import Folder
from lightning.pytorch import Callback
from PIL import Image
from scipy.ndimage import zoom
from torchvision.transforms.v2 import Resize
from torchvision.transforms.v2.functional import to_dtype, to_image

from anomalib_anoseg.common.picture_files import read_examined
from anomalib_anoseg.common.presets import read_preset
from anomalib_anoseg.models import self_supervised
from anomalib_anoseg.training.file_checks import check_image_files
from anomalib_anoseg.training.reading_once import ReadingOnce, read_item
from benchmarks.common import (
    Figures,
    Samples,
    begin,
    clock,
    exit_status,
    format_table,
    in_turns,
    make_parser,
    speed_up,
    write_json,
)
from benchmarks.experiments.trainings import make_engine, of_preset

PRESET = "sgsf_laptop_pretrained"
ONCE, EVERY, SHRUNK = "read once", "read in every epoch", "shrunk beforehand"
ASPECT = 4 / 3
FEW = 12  # pictures that are read part by part
# How many times as fast as reading in every epoch, and as fast as pictures that were shrunk beforehand.
REQUIRED = {EVERY: 4.0, SHRUNK: 1 / 1.1}


def write_pictures(folder: Path, count: int, megapixels: float, seed: int) -> None:
    """Write pictures of one surface, each with another part of it and of the noise."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    height = round((1e6 * megapixels / ASPECT) ** 0.5)
    width = round(height * ASPECT)
    surface = 120 + 25 * zoom(rng.normal(size=(height // 32 + 2, width // 32 + 2, 3)), (32, 32, 1), order=1)
    surface = surface[:height, :width].astype(np.float32)
    levels = surface.clip(16, 239).astype(np.uint8)
    noise = (2 * rng.standard_normal(surface.shape, np.float32)).round().astype(np.int8).view(np.uint8)
    for index in range(count):
        values = np.roll(levels, 37 * index, 1) + np.roll(noise, 1009 * index, 0)  # which wraps to the sum
        Image.fromarray(values).save(folder / f"{index:04}.png", compress_level=1)


def shrink(source: Path, target: Path, side: int) -> None:
    """Write copies at the size of the networks."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        Image.open(path).resize((side, side), Image.Resampling.BOX).save(target / path.name)


def make_folder(pictures: Path, resize: Resize | None = None, batch: int = 8) -> Folder:
    """Make the datamodule of ``configs/data/folder_normal_only.yaml``, without workers."""
    return Folder(
        "parts",
        root=pictures,
        normal_dir=".",
        test_split_mode="none",
        val_split_mode="from_train",
        val_split_ratio=0.1,
        train_batch_size=batch,
        eval_batch_size=8,
        num_workers=0,
        seed=0,
        augmentations=resize,
    )


def read(large: Path, small: Path, options: argparse.Namespace) -> Samples:
    """Time what is done with a picture before a training and in an epoch, in milliseconds."""
    resize = Resize((options.size, options.size), antialias=True)
    kept, plain, shrunk = (make_folder(pictures, resize) for pictures in (large, large, small))
    for data in (kept, plain, shrunk):
        data.setup()
    paths, indices = list(plain.train_data.samples.image_path), range(len(plain.train_data))
    trainer = SimpleNamespace(datamodule=kept, default_root_dir=large.parent, is_global_zero=True, world_size=1)

    def check() -> None:
        for path in paths:
            os.utime(path)  # a file that did not change is not read again
        check_image_files(paths)

    calls = {
        f"before: {EVERY}": check,
        f"before: {ONCE}": lambda: ReadingOnce().setup(cast("Any", trainer), cast("Any", None), "fit"),
        f"in an epoch: {EVERY}": lambda: [plain.train_data[index] for index in indices],
        f"in an epoch: {ONCE}": lambda: [read_item(kept.train_data, index) for index in indices],
        f"in an epoch: {SHRUNK}": lambda: [shrunk.train_data[index] for index in indices],
    }
    # Reading once takes the held-out pictures, too.
    counts = {name: len(paths) + len(kept.val_data) * (name == f"before: {ONCE}") for name in calls}

    def timed(name: str) -> float:
        start = clock()
        calls[name]()
        return 1e3 * (clock() - start) / counts[name]

    return in_turns("ms a picture", {name: partial(timed, name) for name in calls}, options.rounds)


def take_apart(pictures: Path, options: argparse.Namespace) -> Samples:
    """Time the parts of a first reading, in milliseconds a picture."""
    resize = Resize((options.size, options.size), antialias=True)
    paths = sorted(pictures.iterdir())[:FEW]

    def checked(path: Path) -> None:
        read_examined(path, lambda: None)

    def decoded(path: Path) -> Image.Image:
        return Image.open(path).convert("RGB")

    def converted(image: Image.Image) -> torch.Tensor:
        return to_dtype(to_image(image), torch.float32, scale=True)

    steps = {"check of the header": checked, "decoding": decoded, "conversion to float32": converted, "resize": resize}
    samples: Samples = {name: [] for name in steps}
    for path in paths:
        given: Any = path
        for name, step in steps.items():
            start = clock()
            made = step(given)
            samples[name].append(1e3 * (clock() - start))
            given = path if step is checked else made
    return {name: [statistics.median(values)] for name, values in samples.items()}


def fit(pictures: Path, options: argparse.Namespace, weights: Path, *, once: bool) -> float:
    """Train with the preset, as long as it says, and return the seconds."""
    data = make_folder(pictures)
    lengths = {name: value for name, value in read_preset(PRESET)["trainer"].items() if name != "accelerator"}
    lengths["max_steps"] = lengths["max_steps"] if options.steps is None else options.steps
    reading = ReadingOnce if once else Callback  # without it, pictures are read as anomalib reads them
    with tempfile.TemporaryDirectory() as folder, patch.object(self_supervised, "ReadingOnce", reading):
        start = clock()
        model = of_preset(PRESET, weights, {"image_size": [options.size] * 2}, seed=options.seed)
        make_engine(Path(folder), **lengths).fit(model, datamodule=data)
        return clock() - start


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__, "seed", "threads", "markdown", "check")
    parser.add_argument("--pictures", type=int, default=200, help="number of pictures (default: 200)")
    parser.add_argument("--megapixels", type=float, default=5.0, help="size of each (default: 5)")
    parser.add_argument("--size", type=int, default=128, help="side at which the networks see them (default: 128)")
    parser.add_argument("--steps", type=int, help="length of the training (default: the preset's); 0: none")
    parser.add_argument("--rounds", type=int, default=1, help="how often each is measured, in turns (default: 1)")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="timm's of tf_efficientnet_lite0; else random ones"
    )
    return parser.parse_args()


def main() -> int:
    """Measure, print, and return the exit status."""
    options = arguments()
    begin(options)
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder, "large"), Path(folder, "small")
        write_pictures(large, options.pictures, options.megapixels, options.seed)
        shrink(large, small, options.size)
        weights = options.weights or Path(folder, "random.pth")
        if options.weights is None:
            torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), weights)
        megabytes = sum(path.stat().st_size for path in large.iterdir()) / options.pictures / 1e6
        turns = {
            ONCE: lambda: fit(large, options, weights, once=True),
            EVERY: lambda: fit(large, options, weights, once=False),
            SHRUNK: lambda: fit(small, options, weights, once=False),
        }
        figures: Figures = {"milliseconds of processor time a picture": read(large, small, options)}
        figures["milliseconds of a first reading"] = take_apart(large, options)
        if options.steps != 0:
            figures["seconds of a training"] = in_turns("seconds of a training", turns, options.rounds)
    for title, samples in figures.items():
        lines = [[name, f"{statistics.median(values):.1f}"] for name, values in samples.items()]
        print(format_table([[title, "median"], *lines], markdown=options.markdown) + "\n")
    outcomes = {}
    for name, least in REQUIRED.items() if options.steps != 0 else ():
        ratio, low, high = speed_up(figures["seconds of a training"], ONCE, name)
        outcomes[name] = "passed" if ratio >= least else "FAILED"
        print(f"{outcomes[name]}: {ONCE} is {ratio:.2f} ({low:.2f} to {high:.2f}) times as fast as {name}; {least:.2f}")
    write_json(options, figures=figures, megabytes=megabytes, outcomes=outcomes)
    return exit_status(set(outcomes.values())) if options.check else 0


if __name__ == "__main__":
    sys.exit(main())
