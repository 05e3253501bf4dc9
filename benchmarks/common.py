"""Shared code of all scripts: options, seeds, the machine, timing in turns, verdicts, tables and JSON.

A script is a module of this folder; start it from the root of the repository:

    python -m benchmarks.performance.cost --quick
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import timeit
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch

from anomalib_anoseg.common.machine import instruction_sets, load_average, processor
from anomalib_anoseg.common.presets import merge, read_preset

Samples = dict[str, list[float]]  # by subject
Figures = dict[str, Samples]  # by quantity
Row = dict[str, Any]

PACKAGES = ("anomalib-anoseg", "anomalib", "torch", "torchvision", "lightning", "kornia", "timm")
INSTRUCTIONS = ("amx", "avx", "bf16")  # prefixes of names
# Settings of Lightning's trainer for measurements.
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
# A model without the parts of anomalib that a study does not need.
BARE: dict[str, Any] = {"post_processor": False, "evaluator": False, "visualizer": False}
SHARED_OPTIONS: dict[str, dict[str, Any]] = {
    "seed": {"type": int, "default": 0},
    "set": {
        "type": Path,
        "nargs": "*",
        "default": [],
        "help": "folders in MVTec AD's layout; the demonstration if omitted",
    },
    "weights": {"type": Path, "help": "timm's weights of the preset's encoder, in place of a download"},
    "threads": {"type": int, "default": 1, "help": "threads of torch (default: 1)"},
    "markdown": {"action": "store_true", "help": "print tables in Markdown"},
    "check": {"action": "store_true", "help": "exit with 1 if a requirement fails, 2 if it is too noisy to judge"},
}


def make_parser(doc: str | None, *shared: str) -> argparse.ArgumentParser:
    """Make a parser with the first line of a script's docstring, ``--json``, and some of the shared options."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all figures and their origin")
    for name in shared:
        parser.add_argument(f"--{name}", **SHARED_OPTIONS[name])
    return parser


def begin(options: argparse.Namespace) -> None:
    """Set threads and the global seed, silence warnings, and note the machine's load."""
    torch.set_num_threads(getattr(options, "threads", 1))
    torch.manual_seed(getattr(options, "seed", 0))
    warnings.filterwarnings("ignore")
    options.load = load_average()


def preset(name: str) -> dict[str, Any]:
    """Read the model's arguments of a shipped configuration."""
    arguments: dict[str, Any] = read_preset(name)["model"]["init_args"]
    return arguments


def by_group(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Put settings that are named ``group.setting`` into their groups."""
    grouped: dict[str, Any] = {}
    for name, value in changes.items():
        group, _, setting = name.rpartition(".")
        grouped = merge(grouped, {group: {setting: value}} if group else {setting: value})
    return grouped


def machine() -> dict[str, Any]:
    """Name the processor, what it can do, and how much of it is used."""
    return {
        "platform": platform.platform(),
        "processor": processor(),
        "instructions": sorted(name for name in instruction_sets() if name.startswith(INSTRUCTIONS)),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Describe the options, the software and the machine."""
    failed, commit = subprocess.getstatusoutput(f"git -C '{Path(__file__).parent}' describe --always --dirty")
    asked = {name: str(value) for name, value in vars(options).items() if name != "load"}
    return {
        "options": asked,
        "versions": {"python": platform.python_version()} | {package: version(package) for package in PACKAGES},
        "machine": machine(),
        "commit": None if failed else commit,
        "load": [getattr(options, "load", None), load_average()],
    }


def origin() -> Row:
    """Name the software and the machine, for a row that is kept beside rows of other runs."""
    versions = {name.replace("-", "_"): version(name) for name in ("anomalib-anoseg", "torch")}
    return {**versions, "machine": platform.machine()}


def write_json(options: argparse.Namespace, **content: Any) -> None:  # noqa: ANN401
    """Write figures and where they come from, if ``--json`` asks for it."""
    if options.json:
        options.json.write_text(json.dumps(describe(options) | content, indent=1) + "\n", encoding="utf-8")


def format_table(lines: Iterable[list[str]], *, markdown: bool, text_columns: int = 1) -> str:
    """Format a table, whose first line is its head, in Markdown or separated by tabs."""
    head, *others = lines
    if not markdown:
        return "\n".join("\t".join(line) for line in (head, *others))
    ruler = ["---"] * text_columns + ["---:"] * (len(head) - text_columns)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ruler, *others))


def clock() -> float:
    """Read processor time, which other processes do not stretch, or with several threads wall time."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def mean_time(call: Callable[[], object]) -> float:
    """Call once to warm up, then for 0.2 seconds or more; return the mean milliseconds of a call."""
    call()
    calls, seconds = timeit.Timer(call, timer=clock).autorange()
    return 1e3 * seconds / calls


def in_turns(title: str, turns: Mapping[str, Callable[[], float]], rounds: int) -> Samples:
    """Measure all subjects in turns, round after round, so that a machine that slows down slows all of them."""
    samples: Samples = {name: [] for name in turns}
    for number, (name, turn) in product(range(rounds), turns.items()):
        samples[name].append(turn())
        print(f"{title}, round {number + 1}/{rounds}, {name}: {samples[name][-1]:,.1f}", file=sys.stderr, flush=True)
    return samples


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile of two values or more."""
    low, median, high = statistics.quantiles(values, n=4)
    return low, median, high


def speed_up(samples: Samples, name: str, reference: str) -> tuple[float, float, float]:
    """Return how many times as fast as the reference a subject is: by the medians, and the extremes of the rounds."""
    rounds = [a / b for a, b in zip(samples[reference], samples[name], strict=True)]
    return statistics.median(samples[reference]) / statistics.median(samples[name]), min(rounds), max(rounds)


def judge_speed(speed: tuple[float, float, float], required: float) -> str:
    """Compare a speed-up with what is required; one that varies by more than a quarter is too noisy to judge."""
    ratio, least, most = speed
    return "noisy" if most - least > ratio / 4 else "passed" if ratio >= required else "FAILED"


def exit_status(outcomes: set[str]) -> int:
    """Return 1 if a requirement fails, else 2 if one cannot be judged, else 0."""
    return 1 if "FAILED" in outcomes else 2 if "noisy" in outcomes else 0


def refuse_noisy_check(parser: argparse.ArgumentParser, options: argparse.Namespace, size: int) -> None:
    """Refuse to check requirements at another size than they are made for, or in few rounds."""
    if options.rounds < 1 or (options.check and (options.size != size or options.rounds < 4)):
        parser.error(f"--rounds must be 1 or more; --check needs 4 or more and --size {size}")
