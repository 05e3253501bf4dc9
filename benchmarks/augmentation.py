"""What forging costs beside anomalib's generator of the same kind of anomaly, DRAEM's.

Three things are timed in one run on one thread, in turns (A B C A B C ...), each warmed up first, at batches of 8 and
32 images of 256 x 256 pixels with an anomaly in every one; times and statistics are those of `benchmarks/cost.py`:

- noise: `generate_perlin_noise` of anomalib in a loop, as its generator calls it, and `perlin_noise`; ours is given its
  random numbers and frequencies within the time measured, too;
- turned noise: the same and DRAEM's rotation by up to 90 degrees;
- image and mask: `PerlinAnomalyGenerator`, and the transforms `DraemPerlin`, which draws from the same distribution,
  and `SaliencyPerlin`, which estimates saliency and turns three of ten images on top, and without both. All without a
  folder of textures, where `SaliencyPerlin` shows other images and the rest the noise itself, and with one: pictures
  that scikit-image ships, or `--textures`. Anomalib's reads a picture an anomaly, ours keeps them in memory.

`--check` wants a speed-up of what does the same as anomalib's; `SaliencyPerlin`, which does more, is for information.

Operations dispatched and those that hand a value to the host are counted, not timed; the latter are what makes a GPU
wait, and what grows with the batch.

    python benchmarks/augmentation.py [--quick] [--markdown] [--json augmentation.json] [--check]
"""

import argparse
import json
import math
import os
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator, generate_perlin_noise
from cost import Figures, OperationCounter, describe, exit_status, in_turns, mean_time, speed_up
from PIL import Image
from skimage import data
from torch import Tensor

from anomalib_anoseg.transforms import DraemPerlin, SaliencyPerlin
from anomalib_anoseg.transforms.perlin import FREQUENCIES, LATTICE_LINES, perlin_noise, rotate_noise

REFERENCE, SIZE, BATCHES = "anomalib", 256, (8, 32)
PLAIN = "SaliencyPerlin, no saliency, no turn"
LIKE_ANOMALIBS = {"ours", "DraemPerlin"}
# How many times as fast --check wants ours to be, by what the quantity begins with.
REQUIRED = {"noise": 10.0, "turned noise": 0.0, "image and mask": 6.0}
PICTURES = ("astronaut", "brick", "cat", "coffee", "coins", "grass", "gravel", "moon", "page", "text")
CPU = torch.device("cpu")


def anomalib_noise(batch: int, size: int, turn: Callable[[Tensor], Tensor] | None = None) -> list[Tensor]:
    """Make noise with anomalib's function, image by image as its generator does."""
    noise = (generate_perlin_noise(size, size, device=CPU) for _ in range(batch))
    return [turn(image[None]) if turn else image for image in noise]


def our_noise(batch: int, size: int, turned: bool = False) -> Tensor:
    """Draw and make noise of the same distribution."""
    gradients = 2 * math.pi * torch.rand(batch, LATTICE_LINES, LATTICE_LINES)
    frequency = torch.tensor(FREQUENCIES)[torch.randint(len(FREQUENCIES), (batch, 2))]
    noise = perlin_noise(gradients, frequency, (size, size))
    return rotate_noise(noise, torch.empty(batch).uniform_(-90, 90)) if turned else noise


def subjects(batch: int, size: int, textures: Path) -> dict[str, dict[str, Callable[[], object]]]:
    """Make what is measured at one batch size: quantity -> name -> call."""
    turn, image = PerlinAnomalyGenerator().perlin_rotation_transform, torch.rand(batch, 3, size, size)
    # A disc, so that there is something salient.
    across = torch.linspace(-1, 1, size).square()
    image = torch.where(across[:, None] + across < 0.3, 0.5 + image / 2, image / 20)
    calls: dict[str, dict[str, Callable[[], object]]] = {
        "noise": {REFERENCE: partial(anomalib_noise, batch, size), "ours": partial(our_noise, batch, size)},
        "turned noise": {
            REFERENCE: partial(anomalib_noise, batch, size, turn),
            "ours": partial(our_noise, batch, size, turned=True),
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
                ratio, least, most = speed_up(samples, name, REFERENCE)
                outcome = "noisy" if most - least > ratio / 4 else "passed" if ratio >= required else "FAILED"
                # What is faster than required in its slowest round needs no quiet machine.
                outcome = "passed" if least >= required else outcome
                yield outcome, f"{name}, {title}: {ratio:.1f} times as fast, required {required:g}"


def table(figures: Figures, counts: dict[str, dict[str, list[int]]], options: argparse.Namespace) -> str:
    """Format all figures, separated by tabs or in Markdown."""
    head = [
        f"{options.size}x{options.size}, {options.threads} thread(s)",
        "who",
        "ms",
        "speed-up",
        "operations",
        "waits",
    ]
    lines = [head, *([["---", "---", *["---:"] * 4]] if options.markdown else [])]
    for title, samples in figures.items():
        for name, values in samples.items():
            ratio = "{:.1f} ({:.1f} to {:.1f})".format(*speed_up(samples, name, REFERENCE))
            shown = "" if name == REFERENCE else ratio
            lines.append([title, name, f"{statistics.median(values):.3g}", shown, *map(str, counts[title][name])])
    return "\n".join(f"| {' | '.join(line)} |" if options.markdown else "\t".join(line) for line in lines)


def save_pictures(folder: Path) -> None:
    """Save what scikit-image ships as textures."""
    for name in PICTURES:
        Image.fromarray(getattr(data, name)()).convert("RGB").save(folder / f"{name}.png")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure what forging costs beside anomalib's generator.")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the images (default: 256)")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--textures", type=Path, help="folder of pictures in place of scikit-image's")
    parser.add_argument("--quick", action="store_true", help="a trial: 64 pixels, 1 round, batches of 2")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write raw samples and a description of the machine")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a requirement fails, 2 if too noisy")
    options = parser.parse_args()
    options.batches, options.seed = BATCHES, 0
    if options.quick:
        options.size, options.rounds, options.batches = 64, 1, (2,)
    if options.rounds < 1 or (options.check and (options.size != SIZE or options.rounds < 4)):
        parser.error(f"--rounds must be 1 or more; --check needs 4 or more and --size {SIZE}")
    return options


def main() -> int:
    """Measure, report, and return the exit status."""
    load: Callable[[], tuple[float, ...]] = getattr(os, "getloadavg", tuple)  # Windows has none
    options, load_before = parse_options(), load()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    warnings.filterwarnings("ignore")
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
    if options.json:
        content: dict[str, Any] = {"load": [load_before, load()], "milliseconds": figures, "verdicts": verdicts}
        content["operations and host synchronisations"] = counts
        options.json.write_text(json.dumps(describe(options) | content, indent=1) + "\n", encoding="utf-8")
    print(table(figures, counts, options), *(f"{outcome}: {text}" for outcome, text in verdicts), sep="\n")
    return exit_status({outcome for outcome, _ in verdicts}) if options.check else 0


if __name__ == "__main__":
    sys.exit(main())
