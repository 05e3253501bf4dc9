"""Kill a training, an export and a board at random moments, and compare what is left with an unkilled run.

Each runs in a process group of its own, forked from this one, which saves the imports, and is killed with SIGKILL at a
moment drawn from the length of the unkilled run. Then:

- training: the checkpoint that is there must load, and the training that goes on from it must end with equal weights;
- export: each file over the previous one must be whole, old or new, or absent;
- board: the same command once more must end with equal rows;
- inspection: one, killed and started again and again, must judge each picture once, with equal scores.

Page: kills.md.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
import torch
import yaml
from anomalib.cli.cli import AnomalibCLI
from PIL import Image

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.board.run.board import run_board
from anomalib_anoseg.common.memory import forget_peak, peak_memory
from anomalib_anoseg.data import DemoTextures
from anomalib_anoseg.deploy.inspection.inspection import inspect_pictures
from benchmarks.common import Row, begin, format_table, make_parser, write_json

Picture = npt.NDArray[np.float32]

MODEL: dict[str, Any] = {"image_size": [64, 64], "network": {"width": 0.125}, "optimizer": {"averaging": 0.5}}
DATA: dict[str, Any] = {"image_size": 64, "num_train": 16, "num_test_good": 3, "num_test_per_defect": 1, "seed": 0}
CHECKPOINT = "weights/lightning/model.ckpt"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = make_parser(__doc__, "seed", "threads", "markdown")
    parser.add_argument("--kills", type=int, default=20, help="of each kind (default: 20)")
    parser.add_argument("--epochs", type=int, default=6, help="of each training (default: 6)")
    parser.add_argument("--pictures", type=int, default=10_000, help="of the inspection (default: 10000)")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args(arguments)
    begin(options)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        DemoTextures(root=str(root / "data"), **DATA).prepare_data()
        rows = [{"killed": kind, **KINDS[kind](root, options)} for kind in options.only]
    write_json(options, rows=rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    print(
        format_table([names, *([str(row.get(name, "-")) for name in names] for row in rows)], markdown=options.markdown)
    )
    if any(row["whole"] != row["kills"] or row["equal"] != row["kills"] for row in rows):
        sys.exit(1)


def run(call: Callable[[], object], seconds: float | None = None) -> float | None:
    """Run a function in a process group of its own; return how long it took, or ``None`` if it was killed.

    Raises:
        RuntimeError: If it failed by itself.
    """
    process = multiprocessing.get_context("fork").Process(target=_alone, args=(call,))
    begun = time.perf_counter()
    process.start()
    process.join(seconds)
    if process.is_alive():
        os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        return None
    if process.exitcode:
        raise RuntimeError(f"The run ended with {process.exitcode}.")
    return time.perf_counter() - begun


def _alone(call: Callable[[], object]) -> None:
    os.setsid()
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    call()


def apart(function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401
    """Call a function in another process: a runtime with threads must not be in the one that forks."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(function, arguments)


def moments(options: argparse.Namespace, length: float) -> list[float]:
    """Draw when to kill, in seconds."""
    stream = random.Random(options.seed)
    return [stream.uniform(0, length) for _ in range(options.kills)]


def fit(root: Path, out: Path, epochs: int, checkpoint: Path | None = None) -> None:
    """Run ``anomalib fit``."""
    trainer = {"accelerator": "cpu", "max_epochs": epochs, "enable_progress_bar": False, "num_sanity_val_steps": 0}
    data = {"class_path": "DemoTextures", "init_args": {**DATA, "root": str(root / "data"), "train_batch_size": 4}}
    config = {"model": {"class_path": "AnoSeg", "init_args": MODEL}, "data": data, "trainer": trainer}
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(yaml.safe_dump({**config, "default_root_dir": str(out)}), encoding="utf-8")
    resume = [] if checkpoint is None else ["--ckpt_path", str(checkpoint)]
    AnomalibCLI(args=["fit", "--config", str(out / "config.yaml"), *resume])


def checkpoint_in(folder: Path) -> Path | None:
    """Find the latest checkpoint of a run; there is none before the first validation."""
    return max(folder.rglob("model.ckpt"), key=lambda path: path.stat().st_mtime, default=None)


def weights_of(path: Path | None) -> dict[str, torch.Tensor]:
    """Read the weights and thresholds of a checkpoint, which checks its digest."""
    assert path is not None
    return AnoSeg.load_from_checkpoint(path, map_location="cpu").state_dict()


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Compare weights and thresholds bit by bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def kill_trainings(root: Path, options: argparse.Namespace) -> Row:
    """Kill trainings, and let each go on from the checkpoint that is left."""
    length = run(partial(fit, root, root / "unkilled", options.epochs)) or 0.0
    expected, row = weights_of(checkpoint_in(root / "unkilled")), new_row(options)
    for number, moment in enumerate(moments(options, length)):
        out = root / f"training{number}"
        row["finished before"] += run(partial(fit, root, out, options.epochs), moment) is not None
        kept = checkpoint_in(out)
        row["nothing there yet"] += kept is None
        row["whole"] += kept is None or bool(weights_of(kept))
        run(partial(fit, root, out / "on", options.epochs, kept))
        row["equal"] += equal(weights_of(checkpoint_in(out)), expected)
        row["leftovers"] += len(list((out / "on").rglob(".part-*")))
        tell("training", number, row)
    return row


def kill_exports(root: Path, options: argparse.Namespace) -> Row:
    """Kill exports over those of an earlier training."""
    for name, epochs in {"old": 1, "new": 2}.items():
        run(partial(fit, root, root / name, epochs))
    paths = {name: checkpoint_in(root / name) for name in ("old", "new")}
    image = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    length = run(partial(export, paths["new"], root / "exported_new")) or 0.0
    run(partial(export, paths["old"], root / "exported_old"))
    known = [apart(predictions, root / f"exported_{name}", image) for name in ("old", "new")]
    row = new_row(options)
    for number, moment in enumerate(moments(options, length)):
        out = shutil.copytree(root / "exported_old", root / f"export{number}")
        row["finished before"] += run(partial(export, paths["new"], out), moment) is not None
        found = apart(predictions, out, image)
        row["nothing there yet"] += len(found) < len(known[0])
        row["whole"] += None not in found.values()
        row["equal"] += all(any(same(score, of[form]) for of in known) for form, score in found.items())
        run(partial(export, paths["new"], out))
        row["leftovers"] += len(list(out.rglob(".part-*")))
        tell("export", number, row)
    return row


def export(checkpoint: Path | None, out: Path) -> None:
    """Export a checkpoint to all formats."""
    model = AnoSeg.load_from_checkpoint(str(checkpoint), map_location="cpu")
    model.to_torch(out)
    model.to_onnx(out, input_size=(64, 64), verbose=False)
    model.to_openvino(out, input_size=(64, 64), onnx_kwargs={"verbose": False})


def predictions(out: Path, image: Picture) -> dict[str, float | None]:
    """Predict a score by each file that is there; ``None`` for one that does not load."""
    paths = [out / "weights" / form for form in ("torch/model.pt", "onnx/model.onnx", "openvino/model.xml")]
    return {path.name: score_by(path, image) for path in paths if path.exists()}


def score_by(path: Path, image: Picture) -> float | None:
    """Predict a score by a file."""
    with suppress(OSError, RuntimeError, EOFError):
        if path.suffix == ".pt":
            with torch.inference_mode():
                return float(torch.load(path, weights_only=False)["model"](torch.from_numpy(image)).pred_score)
        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return float(compiled(image)["pred_score"].item())
    return None


def same(first: float | None, second: float | None) -> bool:
    """Compare two scores of one file format."""
    return first is not None and second is not None and abs(first - second) < 1e-6


def kill_boards(root: Path, options: argparse.Namespace) -> Row:
    """Kill boards, and run the same command again."""
    model = {"class_path": "AnoSeg", "init_args": {**MODEL, "max_epochs": options.epochs}}
    data = {"class_path": "DemoTextures", "init_args": {**DATA, "root": str(root / "data"), "train_batch_size": 4}}
    config = {"accelerator": "cpu", "benchmark": {"seed": {"grid": [0, 1]}, "model": model, "data": data}}
    (root / "board.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")

    def board(out: Path) -> None:
        sys.exit(bool(run_board(root / "board.yaml", out, save_every=0)))

    length = run(partial(board, root / "board")) or 0.0
    expected, row = rows_of(root / "board"), new_row(options)
    for number, moment in enumerate(moments(options, length)):
        out = root / f"board{number}"
        row["finished before"] += run(partial(board, out), moment) is not None
        row["nothing there yet"] += not rows_of(out)
        row["whole"] += all(found == expected[name] for name, found in rows_of(out).items())
        run(partial(board, out))
        row["equal"] += rows_of(out) == expected
        row["leftovers"] += len(list(out.rglob(".part-*")))
        tell("board", number, row)
    return row


def rows_of(out: Path) -> dict[str, Any]:
    """Read the figures of each finished job."""
    rows = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.rglob("row.json")))
    return {row["id"]: (row["metrics"], row["defects"]) for row in rows}


def kill_inspections(root: Path, options: argparse.Namespace) -> Row:
    """Kill one inspection at random moments, and start it again each time."""
    run(partial(fit, root, root / "inspected", 1))
    run(partial(export, checkpoint_in(root / "inspected"), root / "inspected"))
    stream, tenth = np.random.default_rng(options.seed), options.pictures // 10
    for number in range(options.pictures):
        path = root / "pictures" / ("tenth" if number < tenth else "others") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(stream.integers(0, 256, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)).save(path)
    length, few = inspect(root, "tenth")
    row = new_row(options)
    for number, moment in enumerate(moments(options, 10 * (length or 0.0) / options.kills)):
        row["finished before"] += inspect(root, ".", moment)[0] is not None
        file = root / "out of ." / "results.jsonl"
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        row["nothing there yet"] += not lines
        row["whole"] += all(json.loads(line) for line in lines if line.endswith(b"\n"))
        tell("inspection", number, row)
    many = inspect(root, ".")[1]
    found, scores, expected = results_of(root, "."), dict(results_of(root, ".")), dict(results_of(root, "tenth"))
    row |= {"twice": len(found) - len(scores), "lost": options.pictures - len(scores)}
    are_equal = not row["twice"] and not row["lost"] and expected.items() <= scores.items()
    row["equal"] = options.kills if are_equal else 0
    return row | {f"MiB, {tenth} pictures": few, f"MiB, {options.pictures} pictures": many}


def inspect(root: Path, folder: str, seconds: float | None = None) -> tuple[float | None, float]:
    """Inspect a folder of the pictures; return how long it took, ``None`` if it was killed, and the peak memory."""
    memory = root / "memory"
    memory.write_text("nan", encoding="utf-8")

    def call() -> None:
        forget_peak()
        file = root / "inspected" / "weights" / "onnx" / "model.onnx"
        inspect_pictures(file, [root / "pictures" / folder], root / f"out of {folder}", overlays="none")
        memory.write_text(str(peak_memory()), encoding="utf-8")

    return run(call, seconds), round(float(memory.read_text(encoding="utf-8")), 1)


def results_of(root: Path, folder: str) -> list[tuple[str, float]]:
    """Read the path and score of each line."""
    with (root / f"out of {folder}" / "results.jsonl").open(encoding="utf-8") as file:
        return [(line["path"], line["score"]) for line in map(json.loads, file)]


def new_row(options: argparse.Namespace) -> Row:
    """Begin to count."""
    names = ("finished before", "nothing there yet", "whole", "equal", "leftovers")
    return {"kills": options.kills, **dict.fromkeys(names, 0)}


def tell(kind: str, number: int, row: Row) -> None:
    """Say how far it is."""
    print(f"{kind} {number + 1}/{row['kills']}: {row}", file=sys.stderr, flush=True)


KINDS = {"training": kill_trainings, "export": kill_exports, "board": kill_boards, "inspection": kill_inspections}

if __name__ == "__main__":
    main()
