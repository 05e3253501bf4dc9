"""Compare the cost of forging with that of anomalib's generator of the same kind of anomaly, DRAEM's.

In batches of 8 and 32 images of 256 x 256 pixels, with an anomaly in every image, these take turns on one thread:

- noise: `generate_perlin_noise` of anomalib in a loop, as its generator calls it, and `perlin_noise`, whose random
  numbers and frequencies are drawn within the time measured;
- rotated noise: the same and DRAEM's rotation by up to 90 degrees;
- image and mask: `PerlinAnomalyGenerator`; `DraemPerlin`, which draws from the same distribution; `SaliencyPerlin`,
  which also estimates saliency and rotates three of ten images; and `SaliencyPerlin` without both. All run once without
  a folder of textures, where `SaliencyPerlin` shows other images and the others the noise itself, and once with one:
  pictures that scikit-image ships, or `--textures`. anomalib's reads a picture for each anomaly, ours keep them.

`--check` requires a speed-up of those that do the same as anomalib's. All operations are counted, and those among them
that hand a value to the host: these make a GPU wait, and their number grows with the batch.

    python -m benchmarks.performance.augmentation [--quick] [--markdown] [--json augmentation.json] [--check]
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator, generate_perlin_noise
from PIL import Image
from skimage import data
from torch import Tensor

from anomalib_anoseg.transforms import DraemPerlin, SaliencyPerlin
from anomalib_anoseg.transforms.perlin import FREQUENCIES, LATTICE_LINES, perlin_noise, rotate_noise
from benchmarks.common import (
    Figures,
    begin,
    exit_status,
    format_table,
    in_turns,
    judge_speed,
    make_parser,
    mean_time,
    refuse_noisy_check,
    speed_up,
    write_json,
)
from benchmarks.performance.cost import OperationCounter

REFERENCE, SIZE, BATCHES = "anomalib", 256, (8, 32)
PLAIN = "SaliencyPerlin, no saliency, no rotation"
LIKE_ANOMALIBS = {"ours", "DraemPerlin"}
# How many times as fast --check requires ours to be, by the quantity's first words.
REQUIRED = {"noise": 10.0, "rotated noise": 0.0, "image and mask": 6.0}
PICTURES = ("astronaut", "brick", "cat", "coffee", "coins", "grass", "gravel", "moon", "page", "text")
CPU = torch.device("cpu")


def anomalib_noise(batch: int, size: int, rotate: Callable[[Tensor], Tensor] | None = None) -> list[Tensor]:
    """Make noise with anomalib's function, image by image as its generator does."""
    noise = (generate_perlin_noise(size, size, device=CPU) for _ in range(batch))
    return [rotate(image[None]) if rotate else image for image in noise]


def our_noise(batch: int, size: int, rotated: bool = False) -> Tensor:
    """Draw and make noise of the same distribution."""
    gradients = 2 * math.pi * torch.rand(batch, LATTICE_LINES, LATTICE_LINES)
    frequency = torch.tensor(FREQUENCIES)[torch.randint(len(FREQUENCIES), (batch, 2))]
    noise = perlin_noise(gradients, frequency, (size, size))
    return rotate_noise(noise, torch.empty(batch).uniform_(-90, 90)) if rotated else noise


def subjects(batch: int, size: int, textures: Path) -> dict[str, dict[str, Callable[[], object]]]:
    """Make what is measured at one batch size: quantity -> name -> call."""
    rotate, image = PerlinAnomalyGenerator().perlin_rotation_transform, torch.rand(batch, 3, size, size)
    # A disc, so that there is something salient.
    across = torch.linspace(-1, 1, size).square()
    image = torch.where(across[:, None] + across < 0.3, 0.5 + image / 2, image / 20)
    calls: dict[str, dict[str, Callable[[], object]]] = {
        "noise": {REFERENCE: partial(anomalib_noise, batch, size), "ours": partial(our_noise, batch, size)},
        "rotated noise": {
            REFERENCE: partial(anomalib_noise, batch, size, rotate),
            "ours": partial(our_noise, batch, size, rotated=True),
        },
    }
    for title, folder in {"image and mask": None, "image and mask, folder of textures": textures}.items():
        calls[title] = {
            REFERENCE: partial(PerlinAnomalyGenerator(folder, probability=1.0).forward, image),
            "DraemPerlin": partial(DraemPerlin(folder, p=1.0).forge, image),
            "SaliencyPerlin": partial(SaliencyPerlin(textures=folder, p=1.0).forge, image),
            PLAIN: partial(SaliencyPerlin("none", textures=folder, rotation_p=0.0, p=1.0).forge, image),
        }
    return {f"{title}, batch {batch}": by_name for title, by_name in calls.items()}


def count(call: Callable[[], object]) -> list[int]:
    """Count operations dispatched and those that the host waits for."""
    call()  # reads textures
    with OperationCounter() as counter:
        call()
    return [counter.operations, counter.synchronisations]


def judge(figures: Figures, counts: dict[str, dict[str, list[int]]]) -> Iterator[tuple[str, str]]:
    """Compare figures with requirements; what varies by more than a quarter between rounds is too noisy to judge."""
    for title, samples in figures.items():
        required = REQUIRED[title.split(",")[0]]
        for name in list(samples)[1:]:
            waits = counts[title][name][1]
            yield "FAILED" if waits else "passed", f"{name}, {title}: the host waits {waits} times, allowed 0"
            if required and name in LIKE_ANOMALIBS:
                speed = speed_up(samples, name, REFERENCE)
                # If even the slowest round is fast enough, noise does not matter.
                outcome = "passed" if speed[1] >= required else judge_speed(speed, required)
                yield outcome, f"{name}, {title}: {speed[0]:.1f} times as fast, required {required:g}"


def table(figures: Figures, counts: dict[str, dict[str, list[int]]], options: argparse.Namespace) -> str:
    """Format all figures, separated by tabs or in Markdown."""
    head = [
        f"{options.size}x{options.size}, {options.threads} thread(s)",
        "generator",
        "ms",
        "speed-up",
        "operations",
        "waits",
    ]
    lines = [head]
    for title, samples in figures.items():
        for name, values in samples.items():
            ratio = "{:.1f} ({:.1f} to {:.1f})".format(*speed_up(samples, name, REFERENCE))
            shown = "" if name == REFERENCE else ratio
            lines.append([title, name, f"{statistics.median(values):.3g}", shown, *map(str, counts[title][name])])
    return format_table(lines, markdown=options.markdown, text_columns=2)


def save_pictures(folder: Path) -> None:
    """Save what scikit-image ships as textures."""
    for name in PICTURES:
        Image.fromarray(getattr(data, name)()).convert("RGB").save(folder / f"{name}.png")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "seed", "threads", "markdown", "check")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the images (default: 256)")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--textures", type=Path, help="folder of pictures, instead of scikit-image's")
    parser.add_argument("--quick", action="store_true", help="a trial: 64 pixels, 1 round, batches of 2")
    options = parser.parse_args()
    options.batches = BATCHES
    if options.quick:
        options.size, options.rounds, options.batches = 64, 1, (2,)
    refuse_noisy_check(parser, options, SIZE)
    return options


def main() -> int:
    """Measure, report, and return the exit status."""
    options = parse_options()
    begin(options)
    figures: Figures = {}
    counts: dict[str, dict[str, list[int]]] = {}
    with TemporaryDirectory() as folder:
        save_pictures(Path(folder))
        for batch in options.batches:
            for title, calls in subjects(batch, options.size, options.textures or Path(folder)).items():
                counts[title] = {name: count(call) for name, call in calls.items()}
                turns = {name: partial(mean_time, call) for name, call in calls.items()}
                figures[title] = in_turns(f"{title}, ms", turns, options.rounds)
    verdicts = list(judge(figures, counts)) if options.size == SIZE else []
    content = {"milliseconds": figures, "verdicts": verdicts, "operations and host synchronisations": counts}
    write_json(options, **content)
    print(table(figures, counts, options), *(f"{outcome}: {text}" for outcome, text in verdicts), sep="\n")
    return exit_status({outcome for outcome, _ in verdicts}) if options.check else 0


if __name__ == "__main__":
    sys.exit(main())
