"""Drive wrong arguments, broken run folders, grids, models and pictures through the commands: no traceback, no hang.

Each case changes something valid at random, or writes an argument at random, and calls the command in this process.
It passes if the command returns or ends with a message: any other exception is what a user would see as a traceback.
Jobs of boards are not started, and plots are drawn in every tenth case alone. Page: hostile_input.md.

    python -m benchmarks.experiments.hostile_input [--cases 2000] [--seed 0] [--only report] [--json hostile.json]
"""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import yaml
from PIL import Image

from anomalib_anoseg.cli.main import COMMANDS
from anomalib_anoseg.cli.main import main as run_command
from benchmarks.common import begin, make_parser, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT = 30  # seconds after which a case counts as hanging
METRICS = ("image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_AP", "pixel_IoU", "pixel_BestIoU")
TEXTS = (
    "",
    "a",
    "../../x",
    "/etc/hostname",
    "<b>",
    "[x](javascript:1)",
    "\x00",
    "é部品",
    "a" * 5000,
    "{",
    "[",
    "nan",
    "~",
)
NUMBERS = (0, -1, 1, 7, 1.5, 1e308, -1e308, float("nan"), float("inf"), 2**31, 2**64, 10**400, True)
VALUES: tuple[Any, ...] = (None, *TEXTS, *NUMBERS, [], {}, [None], [[]], {"a": {}}, {"grid": []}, {"": 0}, [1, "a"])
FLAGS: tuple[str, ...] = (
    *("config", "out", "offline", "save_every", "images", "title", "reference", "model", "image", "threads", "calls"),
    *("tolerance", "number", "seed", "data", "data.root", "model.image_size", "model.patches.area", "trainer", "help"),
)
TINY = ("--model=AnoSeg", "--model.image_size=[64,64]", "--model.network.width=0.125")


class Hang(BaseException):
    """A command did not come back."""


def job_id(label: str, seed: int) -> str:
    """Name a job of the run folder."""
    return f"{label}-tile-seed{seed}"


def make_row(label: str, seed: int) -> dict[str, Any]:
    """Make the content of a ``row.json``."""
    figures = dict.fromkeys(METRICS, 0.5 + 0.1 * seed)
    provenance = {
        "commit": "abc",
        "dirty": False,
        "versions": {"torch": "2.10"},
        "cpu": "CPU",
        "cores": 2,
        "threads": 1,
    }
    provenance |= {
        "precision": "32-true",
        "held_out": {"images": 3, "anomalous": 0, "digest": "d"},
        "wall_seconds": 9.0,
    }
    provenance |= {"started": "2026-01-01T11:00:00+00:00", "finished": "2026-01-01T12:00:00+00:00"}
    return {
        "schema": 1,
        **make_job(label, seed),
        "model": f"package.{label}",
        "metrics": figures,
        "defects": {"stain": figures},
        "trivial": label == "ConstantMap",
        "training": {"seconds": 60.0, "images": 400, "epochs": 2.0, "steps": 50, "load_begin": 0.1, "load_end": 1.0},
        "peak_memory_mb": 900.0,
        "parameters": 1000,
        "provenance": provenance,
    }


def make_job(label: str, seed: int) -> dict[str, Any]:
    """Make a job's entry of a ``board.json``."""
    known = {"id": job_id(label, seed), "label": label, "model": label, "dataset": "MVTecAD", "category": "tile"}
    budget = {"seconds": 60, "clock": "cpu"}
    return {**known, "seed": seed, "settings": {"lr": 0.1}, "budget": budget, "data": {"root": "data"}, "trainer": {}}


def make_cost() -> dict[str, Any]:
    """Make the content of a ``cost.json``."""
    form = {"runtime": "openvino", "precision": "INT8"}
    latency = {**form, "batch": 1, "median_ms": 4.0, "p95_ms": 5.0, "noisy": False}
    figures = {
        "parameters": 1000,
        "macs": 2e9,
        "image_size": [64, 64],
        "files_mb": {"openvino INT8": 1.5},
        "threads": 1,
    }
    accuracy = [{**form, **dict.fromkeys(METRICS, 0.6)}]
    rest = {
        "peak_memory_mb": {"openvino INT8": 300.0},
        "load_average": [0.1, 0.2],
        "cpu": "CPU",
        "left_out": {"a": "b"},
    }
    return {"schema": 1, **figures, "latency": [latency], "accuracy": accuracy, "latency_measured": True, **rest}


def make_runs(folder: Path) -> None:
    """Write a small run folder."""
    jobs = [(label, seed) for label in ("AnoSeg", "ConstantMap") for seed in (0, 1)]
    for label, seed in jobs:
        job = folder / "jobs" / job_id(label, seed)
        (job / "maps").mkdir(parents=True)
        (job / "row.json").write_text(json.dumps(make_row(label, seed)))
        (job / "cost.json").write_text(json.dumps(make_cost()))
        (job / "curve.csv").write_text("threshold,iou\n0.0,0.1\n0.5,0.6\n1.0,0.0\n")
        lines = ["image_path,mask_path,defect,gt_label,pred_score,pred_label,iou,map_path"]
        for number, defect in enumerate(("good", "stain")):
            draw(16, number).save(job / f"{number}.png")
            draw(16, number).convert("L").save(job / "maps" / f"{number}.png")
            lines.append(
                f"{job / f'{number}.png'},,{defect},{number},0.{number + 2},{number},0.{number},maps/{number}.png"
            )
        (job / "images.csv").write_text("\n".join(lines))
        (job / "model.ckpt").write_bytes(b"PK\x03\x04 no checkpoint")
        (job / "job.json").write_text(json.dumps({"container": {"data": {"class_path": "MVTecAD"}}, "job": {}}))
    board = {"schema": 1, "config": "text", "jobs": list(starmap(make_job, jobs)), "left_out": {"GLASS": "no file"}}
    (folder / "board.json").write_text(json.dumps(board))


def make_grid() -> dict[str, Any]:
    """Make the configuration of a board."""
    data = {"class_path": "MVTecAD", "init_args": {"root": "data", "category": {"grid": ["tile", "screw"]}}}
    models = [{"class_path": "AnoSeg", "label": "a", "init_args": {"image_size": [64, 64]}}, {"class_path": "Padim"}]
    benchmark = {"seed": {"grid": [0, 1]}, "model": {"grid": [*models, {"class_path": "AnoSeg", "preset": "laptop"}]}}
    budget = {"seconds": 60, "clock": "cpu"}
    return {
        "accelerator": "cpu",
        "trainer": {"max_epochs": 1},
        "budget": budget,
        "benchmark": {**benchmark, "data": data},
    }


def draw(side: int, seed: int, mode: str = "RGB") -> Image.Image:
    """Draw a picture of noise."""
    noise = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


class Chance:
    """Makes what is wrong, from a seed."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def value(self) -> Any:  # noqa: ANN401
        """Choose a value that is seldom right."""
        return copy.deepcopy(self.draw.choice(VALUES))

    def change(self, content: Any) -> Any:  # noqa: ANN401
        """Replace, remove or add an entry somewhere in nested content."""
        content = copy.deepcopy(content)
        at = content
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                return self.value()
            key = self.draw.choice(keys)
            if isinstance(at[key], dict | list) and at[key] and self.draw.random() < 0.8:
                at = at[key]
                continue
            if self.draw.random() < 0.25:
                del at[key]
            elif isinstance(at, dict) and self.draw.random() < 0.1:
                at[str(self.value())] = at.pop(key)
            else:
                at[key] = self.value()
            return content

    def text(self, text: str) -> bytes:
        """Damage a text: cut it, replace some bytes, or write it in another encoding."""
        content = bytearray(text.encode())
        match self.draw.randrange(5):
            case 0:
                return bytes(content[: self.draw.randrange(len(content) + 1)])
            case 1:
                for _ in range(self.draw.randint(1, 8)):
                    content[self.draw.randrange(len(content))] = self.draw.randrange(256)
            case 2:
                return text.encode("utf-16")
            case 3:
                at, garbage = self.draw.randrange(len(content)), str(self.value()).encode("utf-8", "surrogatepass")
                content[at : at + 1] = garbage
            case _:
                return (
                    bytes(self.draw.randrange(256) for _ in range(200)) if self.draw.random() < 0.5 else b"[" * 100_000
                )
        return bytes(content)

    def replace(self, path: Path) -> None:
        """Put something else in place of a file: nothing, a folder, a pipe, a link or bytes."""
        path.unlink(missing_ok=True)
        match self.draw.randrange(6):
            case 0:
                path.mkdir()
            case 1:
                os.mkfifo(path)
            case 2:
                path.symlink_to(self.draw.choice(("nowhere", path.name, "/dev/null", "/etc/hostname", "/")))
            case 3:
                path.write_bytes(bytes(self.draw.randrange(256) for _ in range(300)))
            case 4:
                path.touch()
            case _:
                pass


def report_case(chance: Chance, folder: Path) -> list[str]:
    """Change a file of a run folder."""
    runs = damaged_runs(chance, folder)
    rest = chance.draw.choice(([], ["--reference=AnoSeg"], ["--images=0"], ["--images=1"]))
    return ["report", str(runs), f"--out={folder / 'out'}", *rest]


def cost_case(chance: Chance, folder: Path) -> list[str]:
    """Measure what a changed run folder holds; none of its checkpoints is one."""
    return ["cost", str(damaged_runs(chance, folder)), "--rounds=1", "--force=true"]


def damaged_runs(chance: Chance, folder: Path) -> Path:
    """Write a run folder with one to three faults."""
    runs = folder / "runs"
    make_runs(runs)
    for _ in range(chance.draw.randint(1, 3)):
        files = sorted(path for path in runs.rglob("*") if path.is_file() and not path.is_symlink())
        path = chance.draw.choice([path for path in files if path.suffix in {".json", ".csv"}] or files)
        if chance.draw.random() < 0.1:
            chance.replace(chance.draw.choice(files))
        elif path.suffix == ".json" and chance.draw.random() < 0.8:
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                path.write_text(json.dumps(chance.change(json.loads(path.read_bytes()))))
        elif path.suffix == ".csv" and chance.draw.random() < 0.6:
            lines = [line.split(",") for line in path.read_text(errors="replace").splitlines()]
            changed = chance.change(lines) if lines else []
            rows = [",".join(map(str, line)) if isinstance(line, list) else str(line) for line in changed]
            path.write_text("\n".join(rows), encoding="utf-8", errors="replace")
        else:
            path.write_bytes(chance.text(path.read_text(errors="replace") or " "))
    return runs


def board_case(chance: Chance, folder: Path) -> list[str]:
    """Change the configuration of a board, or a finished row of its folder."""
    path = folder / "grid.yaml"
    content: Any = make_grid()
    for _ in range(chance.draw.randint(1, 3)):
        content = chance.change(content) if isinstance(content, dict | list) and content else content
    text = yaml.safe_dump(content)
    path.write_bytes(chance.text(text) if chance.draw.random() < 0.3 else text.encode())
    if chance.draw.random() < 0.1:
        chance.replace(path)
    out = damaged_runs(chance, folder) if chance.draw.random() < 0.2 else folder / "out"
    return ["board", f"--config={path}", f"--out={out}"]


def doctor_case(chance: Chance, folder: Path) -> list[str]:
    """Give files that are no models, and pictures that are none."""
    suffix = chance.draw.choice((".ckpt", ".pt", ".onnx", ".xml", ".bin", ""))
    model = folder / f"model{suffix}"
    model.write_bytes(chance.text(json.dumps(make_cost())))
    if chance.draw.random() < 0.5:
        chance.replace(model)
    (folder / "row.json").write_text(json.dumps(chance.change({"model": "anomalib_anoseg.AnoSeg", "schema": 1})))
    image = folder / "image.png"
    draw(16, 0, chance.draw.choice(("RGB", "L", "RGBA", "I;16", "P", "1"))).save(image)
    if chance.draw.random() < 0.5:
        chance.replace(image)
    named = chance.draw.choice(([], ["--model_class=AnoSeg"], [f"--model_class={chance.value()}"]))
    return ["doctor", f"--model={model}", *chance.draw.choice(([], [f"--image={image}"])), *named]


def preview_case(chance: Chance, folder: Path) -> list[str]:
    """Give pictures that cannot be used, and settings that are out of range."""
    images = folder / "images"
    images.mkdir()
    for number in range(3):
        mode, suffix = chance.draw.choice((
            ("RGB", "png"),
            ("RGB", "jpg"),
            ("L", "bmp"),
            ("RGBA", "png"),
            ("F", "tiff"),
        ))
        draw(chance.draw.choice((1, 8, 64)), number, mode).save(images / f"{number}.{suffix}")
    if chance.draw.random() < 0.5:
        chance.replace(images / chance.draw.choice(("0.png", "1.jpg", "部品.png")))
    name = chance.draw.choice((
        "image_size",
        "patches.area",
        "patches.count",
        "network.width",
        "optimizer.lr",
        "nothing",
    ))
    setting = [f"--model.{name}={chance.value()}"] if chance.draw.random() < 0.5 else []
    return ["preview", *TINY, *setting, f"--images={images}", "--number=2", f"--out={folder / 'out'}"]


def argument_case(chance: Chance, folder: Path) -> list[str]:
    """Write a command line at random; a run folder and a grid that are right lie in the current folder."""
    make_runs(folder / "runs")
    (folder / "grid.yaml").write_text(yaml.safe_dump(make_grid()))
    words = [chance.draw.choice((*COMMANDS, "bored")) if chance.draw.random() < 0.95 else str(chance.value())]
    for _ in range(chance.draw.randint(0, 4)):
        value = chance.draw.choice((chance.value(), "runs", "grid.yaml", "AnoSeg", "laptop", "out", "runs/jobs"))
        match chance.draw.randrange(4):
            case 0:
                words.append(str(value))
            case 1:
                words += [f"--{chance.draw.choice(FLAGS)}", str(value)]
            case _:
                words.append(f"--{chance.draw.choice(FLAGS)}={value}")
    return words


CASES: dict[str, tuple[int, Callable[[Chance, Path], list[str]]]] = {  # and of a hundred, how many
    "report": (40, report_case),
    "board": (22, board_case),
    "arguments": (20, argument_case),
    "doctor": (8, doctor_case),
    "preview": (8, preview_case),
    "cost": (2, cost_case),
}


def run_case(make: Callable[[Chance, Path], list[str]], seed: int) -> tuple[str, list[str], str]:
    """Run a case in a folder of its own; return how it ended, its arguments, and what was raised."""

    def end(*_: object) -> None:
        raise Hang

    before = Path.cwd()
    said = io.StringIO()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        arguments = make(Chance(seed), Path(folder))
        signal.signal(signal.SIGALRM, end)
        signal.alarm(TIMEOUT)
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                run_command(arguments)
            outcome, trace = "returned", ""
        except SystemExit as ended:
            outcome, trace = f"exit {ended.code}", ""
        except BaseException as error:  # noqa: BLE001 - what a user would see
            outcome, trace = ("HANG" if isinstance(error, Hang) else "TRACEBACK"), traceback.format_exc()
        finally:
            signal.alarm(0)
            os.chdir(before)
        if "Traceback (most recent" in said.getvalue():
            outcome, trace = "TRACEBACK", said.getvalue()
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir(exist_ok=True)
    return outcome, arguments, trace


def main() -> int:
    """Run all cases, print what they ended with, and return 1 if one of them failed."""
    parser = make_parser(__doc__, "seed")
    parser.add_argument("--cases", type=int, default=2000, help="number of cases (default: 2000)")
    parser.add_argument("--only", choices=tuple(CASES), help="one kind of cases alone")
    parser.add_argument("--case", type=int, help="run the case of this number alone, and print what it raised")
    options = parser.parse_args()
    begin(options)
    faulthandler.enable()
    kinds = [options.only] if options.only else [kind for kind, (share, _) in CASES.items() for _ in range(share)]
    random.Random(options.seed).shuffle(kinds)
    outcomes: dict[str, Counter[str]] = {}
    failures: list[dict[str, Any]] = []
    started = time.perf_counter()
    with (
        patch("anomalib_anoseg.board.run.board.ask", lambda *_: {}),
        patch("anomalib_anoseg.common.jobs.one_machine.OneMachine.run", lambda *_: (str(job) for job in range(0))),
    ):
        for number in range(options.cases) if options.case is None else [options.case]:
            kind = kinds[number % len(kinds)]
            quick = patch("anomalib_anoseg.board.report.plots._svg", lambda *_: "<svg/>")
            with quick if number % 10 else contextlib.nullcontext():
                outcome, arguments, trace = run_case(CASES[kind][1], 1_000_003 * options.seed + number)
            outcomes.setdefault(kind, Counter())[outcome] += 1
            if (number + 1) % 100 == 0:
                print(f"{number + 1} of {options.cases} cases", file=sys.stderr, flush=True)
            if outcome in {"TRACEBACK", "HANG"} or options.case is not None:
                failures.append({"case": number, "kind": kind, "arguments": arguments, "raised": trace[-3000:]})
                last = (trace.strip() or outcome).splitlines()[-1]
                print(f"case {number} ({kind}): {last[:300]}", file=sys.stderr, flush=True)
    for kind, found in outcomes.items():
        print(f"{kind:<10}{found.total():6}  {', '.join(f'{name}: {found[name]}' for name in sorted(found))}")
    bad = sum(found[name] for found in outcomes.values() for name in ("TRACEBACK", "HANG"))
    total, minutes = sum(found.total() for found in outcomes.values()), (time.perf_counter() - started) / 60
    print(f"{bad} of {total} cases ended with a traceback or not at all ({minutes:.1f} minutes)")
    write_json(options, cases=total, failed=bad, outcomes=outcomes, failures=failures)
    if options.case is not None:
        print(failures[0]["raised"] if failures else "")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
