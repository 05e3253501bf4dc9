"""What AnoSeg costs beside anomalib's DRAEM: parameters, arithmetic, latency, training step, forging, memory.

All networks are measured in one run on one thread, in turns (A B C A B C ...), so that a machine that slows down slows
all of them; each turn warms up first. Times are processor time, which on an idle machine is what the wall shows (with
several threads: the wall's). Speed-ups are ratios of medians, with the extremes of the rounds' ratios. The layout is
channels-last throughout, no slower for DRAEM either; weights and images are random.

- Counted: parameters that are trained (AnoSeg's averaged weights are not; they add as many as it has at inference),
  multiply-adds of convolutions and matrix products, operations dispatched, and those among them that hand a value to
  the host: on a CPU also values that were drawn on the host and for which a GPU would not have to wait.
- Inference: batch 1, float32, and bfloat16 by autocast where the processor has it; means of 0.2 s of calls or of one.
- Training: real steps of Lightning's trainer in float32. As many images go through each network: DRAEM's batch is 4,
  about half with an anomaly, AnoSeg's is 2, each with and without. The share of forging is of these very steps.
- Forging: an anomaly in half as many images, for DRAEM with probability 1. Its textures are a download; it gets an
  empty folder instead, so that it falls back to noise and is spared reading a picture an anomaly.
- Memory: how far one inference or two training steps raise the resident memory of a process at their peak, over its
  level when all libraries are loaded and the network is made; weights are thus left out. Linux only: the kernel's peak
  VmHWM can be reset, while getrusage's would start from the parent's.

    python benchmarks/cost.py [--quick] [--markdown] [--json cost.json] [--check]
"""

import argparse
import copy
import ctypes
import gc
import json
import logging
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import timeit
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from anomalib.data import ImageBatch
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from anomalib.models.image.draem import Draem
from lightning.pytorch import Callback, Trainer
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701 - nothing else sees every operation
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.anoseg.torch_model import AnoSegModel
from anomalib_anoseg.transforms import HardCutPaste

Samples = dict[str, list[float]]  # by subject
Figures = dict[str, Samples]  # by quantity

REFERENCE, SIZE, WIDTHS = "DRAEM", 256, (1.0, 0.25)
SHARE, WAITS = "share of forging in a training step, %", "host synchronisations of forging"
# What --check wants at SIZE: speed-ups for WIDTHS, by the first word of the quantity, and upper bounds.
REQUIRED = {"inference": (5.0, 10.0), "training": (2.5, 5.0)}
ALLOWED = {SHARE: 5.0, WAITS: 0.0}
SYNCHRONISING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique"}
PACKAGES = ("anomalib-anoseg", "anomalib", "torch", "torchvision", "lightning", "kornia", "timm")
CPUINFO = Path("/proc/cpuinfo").read_text("utf-8") if sys.platform == "linux" else ""
PROCESSOR = r"model name\s*:.*|\b(?:amx|avx|bf16)\w*"
QUIET: dict[str, Any] = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def clock() -> float:
    """Read the processor's time, which neighbours do not stretch, or with several threads the wall's."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class Subject(Callback):
    """AnoSeg of some width, or without one DRAEM: infers, forges, and trains for two steps at a time."""

    def __init__(self, width: float | None, size: int, images: int) -> None:
        bare: dict[str, Any] = dict.fromkeys(("pre_processor", "post_processor", "evaluator", "visualizer"), False)
        with TemporaryDirectory() as no_textures:
            self.module: Any = AnoSeg((size, size), width=width, **bare) if width else Draem(no_textures, **bare)
        self.module.model.to(memory_format=torch.channels_last)
        self.network = copy.deepcopy(self.module.model).eval()
        if isinstance(self.network, AnoSegModel):
            self.network.drop_training_parts()
        self.image = torch.rand(1, 3, size, size).to(memory_format=torch.channels_last)
        self.batch = ImageBatch(torch.rand(images // 2 if width else images, 3, size, size))
        forge = HardCutPaste().forge if width else PerlinAnomalyGenerator(probability=1.0).forward
        self.forge = partial(forge, torch.rand(images // 2, 3, size, size))
        name = "forge" if width else "forward"
        setattr(self.module.augmenter, name, partial(self._time_forging, getattr(self.module.augmenter, name)))
        self.shares: list[float] = []

    def infer(self, dtype: torch.dtype = torch.float32) -> None:
        """Predict one image."""
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            self.network(self.image)

    def train(self) -> float:
        """Train for two steps; return the milliseconds of the second."""
        self.ends, self.forging = list[float](), list[float]()
        batches: Any = [self.batch] * 2
        trainer = Trainer(accelerator="cpu", max_epochs=1, callbacks=[self], logger=False, **QUIET)
        trainer.fit(self.module, DataLoader(batches, batch_size=None))
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


class OperationCounter(TorchDispatchMode):
    """Counts operations dispatched, and those whose result the host waits for."""

    operations = synchronisations = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401, PLW3201
        """Count one operation and run it."""
        self.operations += 1
        self.synchronisations += func.overloadpacket.__name__ in SYNCHRONISING
        return func(*args, **(kwargs or {}))


def count(subject: Subject, samples: int) -> dict[str, list[float]]:
    """Count what needs no clock, by quantity; forging draws anew for every sample."""
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
    for dtype in (torch.float32, torch.bfloat16) if "bf16" in CPUINFO else (torch.float32,):
        infer = {name: partial(mean_time, partial(subject.infer, dtype)) for name, subject in subjects.items()}
        turns[f"inference in {str(dtype).removeprefix('torch.')}, ms"] = infer
    turns["forging, ms"] = {name: partial(mean_time, subject.forge) for name, subject in subjects.items()}
    figures = {title: in_turns(title, by_name, rounds) for title, by_name in turns.items()}
    train = {name: subject.train for name, subject in subjects.items()}
    figures["training step, ms"] = in_turns("training step, ms", train, rounds // 2)
    return figures | {SHARE: {name: subject.shares for name, subject in subjects.items()}}


def mean_time(call: Callable[[], object]) -> float:
    """Call once to warm up, then for 0.2 seconds or more; return the mean milliseconds of a call."""
    call()
    calls, seconds = timeit.Timer(call, timer=clock).autorange()
    return 1e3 * seconds / calls


def in_turns(title: str, turns: Mapping[str, Callable[[], float]], rounds: int) -> Samples:
    """Let all subjects take their turns, round after round."""
    samples: Samples = {name: [] for name in turns}
    for number, (name, turn) in product(range(rounds), turns.items()):
        samples[name].append(turn())
        print(f"{title}, round {number + 1}/{rounds}, {name}: {samples[name][-1]:,.1f}", file=sys.stderr, flush=True)
    return samples


def measure_memory(widths: dict[str, float | None], size: int, images: int) -> Figures:
    """Measure memory, each figure in a process of its own, forked before this one computes anything."""
    figures: Figures = {}
    for kind in ("infer", "train") if sys.platform == "linux" else ():
        samples = figures.setdefault(f"memory to {kind} beside weights, MB", {})
        for name, width in widths.items():
            with get_context("fork").Pool(1) as pool:
                samples[name] = [pool.apply(peak_growth, (kind, width, size, images))]
        print(f"memory to {kind}, MB: {samples}", file=sys.stderr, flush=True)
    return figures


def peak_growth(kind: str, width: float | None, size: int, images: int) -> float:
    """Infer once or train for two steps; return by how many megabytes this process grew at its peak."""
    Subject(width=0.125, size=64, images=4).train()  # loads what is imported late
    subject, status = Subject(width, size, images), Path("/proc/self/status")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # hands freed memory back, which would hide growth
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # sets VmHWM to VmRSS
    before = status.read_text("ascii").partition("VmRSS:")[2]
    getattr(subject, kind)()
    after = status.read_text("ascii").partition("VmHWM:")[2]
    return (int(after.split()[0]) - int(before.split()[0])) / 1e3


def speed_up(samples: Samples, name: str) -> tuple[float, float, float]:
    """Return how many times as fast as DRAEM a subject is: by the medians, least and most of the rounds."""
    rounds = [a / b for a, b in zip(samples[REFERENCE], samples[name], strict=True)]
    return statistics.median(samples[REFERENCE]) / statistics.median(samples[name]), min(rounds), max(rounds)


def judge(figures: Figures) -> Iterator[tuple[str, str]]:
    """Compare figures with requirements; what varies by more than a quarter between rounds is too noisy to judge."""
    for title, samples in figures.items():
        for name, required in zip(list(samples)[1:], REQUIRED.get(title.split()[0], (0.0, 0.0)), strict=True):
            if title in ALLOWED:
                outcome = "passed" if max(samples[name]) <= ALLOWED[title] else "FAILED"
                yield outcome, f"{name}, {title}: {max(samples[name]):.2g}, allowed {ALLOWED[title]:g}"
            elif required:
                ratio, least, most = speed_up(samples, name)
                outcome = "noisy" if most - least > ratio / 4 else "passed" if ratio >= required else "FAILED"
                yield outcome, f"{name}, {title}: {ratio:.1f} times as fast, required {required:g}"


def exit_status(outcomes: set[str]) -> int:
    """Return 1 if a requirement fails, else 2 if one cannot be judged, else 0."""
    return 1 if "FAILED" in outcomes else 2 if "noisy" in outcomes else 0


def table(figures: Figures, options: argparse.Namespace) -> str:
    """Format all figures, separated by tabs or in Markdown."""
    names = list(figures[WAITS])
    head = f"{options.size}x{options.size}, {options.images} images a training step, {options.threads} thread(s)"
    lines = [[head, *names], *([["---", *["---:"] * len(names)]] if options.markdown else [])]
    for title, samples in figures.items():
        medians = {name: statistics.median(values) for name, values in samples.items()}
        cells = {name: f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for name, value in medians.items()}
        for name in names[1:] if title.endswith(" ms") else ():
            cells[name] += " ({:.1f}x, {:.1f} to {:.1f})".format(*speed_up(samples, name))
        lines.append([title, *cells.values()])
    return "\n".join(f"| {' | '.join(line)} |" if options.markdown else "\t".join(line) for line in lines)


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Describe what was asked for, of which software, on which machine."""
    failed, commit = subprocess.getstatusoutput(f"git -C '{Path(__file__).parent}' describe --always --dirty")
    return {
        "options": {name: str(value) for name, value in vars(options).items()},
        "versions": {"python": platform.python_version()} | {package: version(package) for package in PACKAGES},
        "machine": [platform.platform(), os.cpu_count(), *sorted(set(re.findall(PROCESSOR, CPUINFO)))],
        "commit": None if failed else commit,
    }


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure what AnoSeg costs beside anomalib's DRAEM.")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the images (default: 256)")
    parser.add_argument("--rounds", type=int, default=4, help="of training; twice as many else (default: 4)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a trial: 64 pixels, 1 round, a narrow network")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write raw samples and a description of the machine")
    parser.add_argument("--markdown", action="store_true", help="print the table for the model card")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a requirement fails, 2 if too noisy")
    options = parser.parse_args()
    options.widths, options.images, options.seed = WIDTHS, 4, 0
    if options.quick:
        options.size, options.rounds, options.widths, options.images = 64, 1, (0.125,), 2
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
    logging.disable(logging.WARNING)
    widths = {REFERENCE: None} | {f"AnoSeg, width {width:g}": width for width in options.widths}
    memory = measure_memory(widths, options.size, options.images)
    subjects = {name: Subject(width, options.size, options.images) for name, width in widths.items()}
    counts = {name: count(subject, 2 * options.rounds) for name, subject in subjects.items()}
    figures = {title: {name: counts[name][title] for name in counts} for title in counts[REFERENCE]}
    figures |= measure_time(subjects, 2 * options.rounds) | memory
    verdicts = list(judge(figures)) if options.size == SIZE else []
    if options.json:
        content = {"load": [load_before, load()], "figures": figures, "verdicts": verdicts}
        options.json.write_text(json.dumps(describe(options) | content, indent=1) + "\n", encoding="utf-8")
    print(table(figures, options), *(f"{outcome}: {text}" for outcome, text in verdicts), sep="\n")
    return exit_status({outcome for outcome, _ in verdicts}) if options.check else 0


if __name__ == "__main__":
    sys.exit(main())
