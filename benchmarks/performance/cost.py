"""Compare the costs of AnoSeg and SGSF with anomalib's DRAEM: parameters, arithmetic, latency, training, memory.

All networks run in one process on one thread and take turns (A B C A B C ...), so that a machine that slows down slows
all of them. Each turn warms up first. Times are processor time, or wall time with several threads. Speed-ups are ratios
of medians, with the extremes of the rounds' ratios. Weights and images are random, the layout is channels-last, which
is no slower for DRAEM either. SGSF carries 16 references with stored features.

- Counts: parameters that are trained, without AnoSeg's averaged copy; multiply-adds of convolutions and matrix
  products; operations dispatched, and those of them that hand a value to the host. On a CPU the latter include values
  that were drawn on the host, for which a GPU would not have to wait.
- Inference: batch 1, float32, and bfloat16 by autocast where the processor has it.
- Training: steps of Lightning's trainer in float32. Each network gets equally many images: DRAEM's batch is 4,
  about half with an anomaly; SGSF's is 4, three quarters with one, each beside a reference; AnoSeg's is 2, each with
  and without. The share of forging is its part of these steps.
- Forging: an anomaly in half as many images, for DRAEM and SGSF with probability 1. DRAEM gets an empty folder of
  textures, so that it shows noise and reads no picture for each anomaly.
- Memory: how far one inference or two training steps raise the resident memory at their peak, above its level with all
  libraries loaded and the network made. Weights are thus left out. Linux only: its peak (VmHWM) can be reset, while
  that of getrusage starts from the parent's.

    python -m benchmarks.performance.cost [--quick] [--markdown] [--json cost.json] [--check]
"""

import argparse
import copy
import ctypes
import gc
import logging
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from anomalib.models.image.draem import Draem
from lightning.pytorch import Callback, Trainer
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701 - nothing else sees every operation
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from anomalib_anoseg import SGSF, AnoSeg
from anomalib_anoseg.common.machine import instruction_sets
from anomalib_anoseg.transforms import HardCutPaste, SaliencyPerlin
from benchmarks.common import (
    BARE,
    QUIET,
    Figures,
    begin,
    clock,
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

REFERENCE, SIZE, WIDTHS = "DRAEM", 256, (1.0, 0.25)
SHARE, WAITS = "share of forging in a training step, %", "host synchronisations of forging"
REFERENCES = 16
# What --check requires at SIZE: speed-ups, by the first word of the quantity, and upper bounds.
REQUIRED = {
    "AnoSeg, width 1": {"inference": 5.0, "training": 2.5},
    "AnoSeg, width 0.25": {"inference": 10.0, "training": 5.0},
    "SGSF, width 1": {"inference": 2.3},
    "SGSF, width 0.25": {"inference": 8.0},
}
ALLOWED = {SHARE: 5.0, WAITS: 0.0}
SYNCHRONISING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique"}


class Kind(NamedTuple):
    """A model and its width; DRAEM has one."""

    model: str
    width: float = 1.0

    def __str__(self) -> str:
        """Return the name that figures use."""
        return self.model if self.model == REFERENCE else f"{self.model}, width {self.width:g}"


class Subject(Callback):
    """A model that infers, forges, and trains for two steps at a time."""

    def __init__(self, kind: Kind, size: int, images: int) -> None:
        self.module, self.augmenter = build(kind, size)
        self.module.model.to(memory_format=torch.channels_last)
        self.network = for_inference(self.module, size)
        self.image = torch.rand(1, 3, size, size).to(memory_format=torch.channels_last)
        self.batch_size = images // 2 if kind.model == "AnoSeg" else images
        pictures = torch.rand(2 * self.batch_size, 3, size, size)
        self.items: Any = [ImageItem(image=picture, image_path=str(index)) for index, picture in enumerate(pictures)]
        self.forge = partial(self.augmenter, torch.rand(images // 2, 3, size, size))
        name = "forward" if kind.model == REFERENCE else "forge"
        setattr(self.module.augmenter, name, partial(self._time_forging, getattr(self.module.augmenter, name)))
        self.shares: list[float] = []

    def infer(self, dtype: torch.dtype = torch.float32) -> None:
        """Predict one image."""
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            self.network(self.image)

    def train(self) -> float:
        """Train for two steps; return the milliseconds of the second."""
        self.ends, self.forging = list[float](), list[float]()
        trainer = Trainer(max_epochs=1, callbacks=[self], **QUIET)
        loader: Any = DataLoader(self.items, self.batch_size, collate_fn=ImageBatch.collate)
        trainer.fit(self.module, loader)
        elapsed = self.ends[1] - self.ends[0]
        self.shares.append(100 * self.forging[1] / elapsed)
        return 1e3 * elapsed

    def on_train_batch_end(self, *_: Any) -> None:  # noqa: ANN401
        """Note when a step ends."""
        self.ends.append(clock())

    def _time_forging(self, forge: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        begin = clock()
        forged = forge(*args, **kwargs)
        self.forging.append(clock() - begin)
        return forged


def build(kind: Kind, size: int) -> tuple[Any, Callable[..., Any]]:
    """Make a model, and a call that forges an anomaly in every image."""
    bare: dict[str, Any] = {"pre_processor": False, **BARE}
    network: dict[str, Any] = {"network": {"width": kind.width}}
    if kind.model == "AnoSeg":
        return AnoSeg((size, size), **network, **bare), HardCutPaste().forge
    if kind.model == "SGSF":
        return SGSF((size, size), **network, **bare), SaliencyPerlin(p=1.0).forge
    with TemporaryDirectory() as no_textures:
        return Draem(no_textures, **bare), PerlinAnomalyGenerator(probability=1.0).forward


def for_inference(module: Any, size: int) -> Any:  # noqa: ANN401
    """Copy a model's networks as an export holds them; SGSF gets random references."""
    network = copy.deepcopy(module.model)
    if isinstance(module, SGSF):
        references = torch.randint(256, (REFERENCES, 3, size, size), dtype=torch.uint8)
        network.fill_bank(references, network.embed(references / 255))
    network.eval()
    if not isinstance(module, Draem):
        network.prepare_for_evaluation()
        network.drop_training_parts()
    return network


class OperationCounter(TorchDispatchMode):
    """Counts operations dispatched, and those whose result the host waits for."""

    operations = synchronisations = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401, PLW3201
        """Count one operation and run it."""
        self.operations += 1
        self.synchronisations += func.overloadpacket.__name__ in SYNCHRONISING
        return func(*args, **(kwargs or {}))


def count(subject: Subject, samples: int) -> dict[str, list[float]]:
    """Count parameters, arithmetic and operations by quantity; each sample forges with new random numbers."""
    trained = [weight for weight in subject.module.model.parameters() if weight.requires_grad]
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        subject.network(subject.image)
    counters = [OperationCounter() for _ in range(samples)]
    for counter in counters:
        with counter:
            subject.forge()
    return {
        "parameters in training, million": [sum(weight.numel() for weight in trained) / 1e6],
        "parameters at inference, million": [sum(weight.numel() for weight in subject.network.parameters()) / 1e6],
        "multiply-adds at inference, billion": [flops.get_total_flops() / 2e9],
        "operations of forging": [counter.operations for counter in counters],
        WAITS: [counter.synchronisations for counter in counters],
    }


def measure_time(subjects: dict[str, Subject], rounds: int) -> Figures:
    """Time inference, forging and training, the latter in half as many rounds."""
    turns: dict[str, Mapping[str, Callable[[], float]]] = {}
    for dtype in (
        (torch.float32, torch.bfloat16) if any("bf16" in name for name in instruction_sets()) else (torch.float32,)
    ):
        infer = {name: partial(mean_time, partial(subject.infer, dtype)) for name, subject in subjects.items()}
        turns[f"inference in {str(dtype).removeprefix('torch.')}, ms"] = infer
    turns["forging, ms"] = {name: partial(mean_time, subject.forge) for name, subject in subjects.items()}
    figures = {title: in_turns(title, by_name, rounds) for title, by_name in turns.items()}
    train = {name: subject.train for name, subject in subjects.items()}
    figures["training step, ms"] = in_turns("training step, ms", train, rounds // 2)
    return figures | {SHARE: {name: subject.shares for name, subject in subjects.items()}}


def measure_memory(kinds: list[Kind], size: int, images: int) -> Figures:
    """Measure memory, each figure in a process of its own, forked before this one computes anything."""
    figures: Figures = {}
    for job in ("infer", "train") if sys.platform == "linux" else ():
        samples = figures.setdefault(f"memory to {job} beside weights, MB", {})
        for kind in kinds:
            with get_context("fork").Pool(1) as pool:
                samples[str(kind)] = [pool.apply(peak_growth, (job, kind, size, images))]
        print(f"memory to {job}, MB: {samples}", file=sys.stderr, flush=True)
    return figures


def peak_growth(job: str, kind: Kind, size: int, images: int) -> float:
    """Infer once or train for two steps; return by how many megabytes this process grew at its peak."""
    Subject(Kind("AnoSeg", 0.125), size=64, images=4).train()  # loads what is imported late
    subject, status = Subject(kind, size, images), Path("/proc/self/status")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # hands freed memory back, which would hide growth
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # sets VmHWM to VmRSS
    before = status.read_text("ascii").partition("VmRSS:")[2]
    getattr(subject, job)()
    after = status.read_text("ascii").partition("VmHWM:")[2]
    return (int(after.split()[0]) - int(before.split()[0])) / 1e3


def judge(figures: Figures) -> Iterator[tuple[str, str]]:
    """Compare figures with requirements; what varies by more than a quarter between rounds is too noisy to judge."""
    for title, samples in figures.items():
        for name in list(samples)[1:]:
            required = REQUIRED.get(name, {}).get(title.split()[0])
            if title in ALLOWED:
                outcome = "passed" if max(samples[name]) <= ALLOWED[title] else "FAILED"
                yield outcome, f"{name}, {title}: {max(samples[name]):.2g}, allowed {ALLOWED[title]:g}"
            elif required:
                speed = speed_up(samples, name, REFERENCE)
                outcome = judge_speed(speed, required)
                yield outcome, f"{name}, {title}: {speed[0]:.1f} times as fast, required {required:g}"


def table(figures: Figures, options: argparse.Namespace) -> str:
    """Format all figures, separated by tabs or in Markdown."""
    names = list(figures[WAITS])
    head = f"{options.size}x{options.size}, {options.images} images a training step, {options.threads} thread(s)"
    lines = [[head, *names]]
    for title, samples in figures.items():
        medians = {name: statistics.median(values) for name, values in samples.items()}
        cells = {name: f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for name, value in medians.items()}
        for name in names[1:] if title.endswith(" ms") else ():
            cells[name] += " ({:.1f}x, {:.1f} to {:.1f})".format(*speed_up(samples, name, REFERENCE))
        lines.append([title, *cells.values()])
    return format_table(lines, markdown=options.markdown)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "seed", "threads", "markdown", "check")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the images (default: 256)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of training; twice as many else (default: 4)")
    parser.add_argument("--quick", action="store_true", help="a trial: 64 pixels, 1 round, a narrow network")
    options = parser.parse_args()
    options.widths, options.images = WIDTHS, 4
    if options.quick:
        options.size, options.rounds, options.widths, options.images = 64, 1, (0.125,), 2
    refuse_noisy_check(parser, options, SIZE)
    return options


def main() -> int:
    """Measure, report, and return the exit status."""
    options = parse_options()
    begin(options)
    logging.disable(logging.WARNING)
    kinds = [Kind(REFERENCE), *(Kind(model, width) for model in ("AnoSeg", "SGSF") for width in options.widths)]
    memory = measure_memory(kinds, options.size, options.images)
    subjects = {str(kind): Subject(kind, options.size, options.images) for kind in kinds}
    counts = {name: count(subject, 2 * options.rounds) for name, subject in subjects.items()}
    figures = {title: {name: counts[name][title] for name in counts} for title in counts[REFERENCE]}
    figures |= measure_time(subjects, 2 * options.rounds) | memory
    verdicts = list(judge(figures)) if options.size == SIZE else []
    write_json(options, figures=figures, verdicts=verdicts)
    print(table(figures, options), *(f"{outcome}: {text}" for outcome, text in verdicts), sep="\n")
    return exit_status({outcome for outcome, _ in verdicts}) if options.check else 0


if __name__ == "__main__":
    sys.exit(main())
