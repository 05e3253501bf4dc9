"""Models for studies: of presets, finished jobs of boards, or a tiny network to show that a script works."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from anomalib.engine import Engine
from lightning.pytorch import Trainer

from anomalib_anoseg import SGSF, AnoSeg
from anomalib_anoseg.board.run.rebuild import load_job
from anomalib_anoseg.board.run.run_folder import RunFolder
from anomalib_anoseg.data import DemoTextures
from benchmarks.common import BARE, QUIET, Row, by_group, merge, preset


def of_preset(name: str, weights: Path | None = None, changes: Mapping[str, Any] | None = None, **more: Any) -> Any:  # noqa: ANN401
    """Make the model of a preset, with changes by ``group.setting``, and with its encoder's weights from a file."""
    kind, encoder = (SGSF, "extractor.weights") if name.startswith("sgsf") else (AnoSeg, "encoder.pre_trained")
    given = {encoder: str(weights)} if weights else {}
    return kind(**merge(preset(name), by_group({**(changes or {}), **given})), **more)


def run_missing(path: Path, runs: Iterable[tuple[Row, Callable[[], Row]]], shown: Sequence[str]) -> list[Row]:
    """Run what a JSON file does not hold yet, and write it after each run.

    Args:
        path: The file; it need not exist.
        runs: What names each run's row, and what makes the rest of it.
        shown: Names of figures to print.
    """
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    for key, run in runs:
        if not any(row.items() >= key.items() for row in rows):
            rows.append(key | run())
            path.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
            print(key["trial"], key["set"], key["seed"], {name: rows[-1][name] for name in shown}, flush=True)
    return rows


def finished(folder: Path) -> Any:  # noqa: ANN401
    """Read the row of a finished job from its board's folder."""
    row = RunFolder(folder.parent.parent).row(folder.name)
    if row is None:
        raise SystemExit(f"{folder} is no folder of a finished job")
    return row


def trainings(folders: list[Path]) -> Iterator[tuple[dict[str, str], AnoSeg, Any]]:
    """Load the trained models, with their configuration's name and their own, and their data."""
    for folder in folders:
        row = finished(folder)
        names = {"configuration": row.label, "training": f"{row.data_name}, seed {row.seed}"}
        yield names, *load_job(folder, row)


def demonstration() -> Iterator[tuple[dict[str, str], AnoSeg, Any]]:
    """Train a tiny network for an epoch."""
    sizes: dict[str, Any] = {"image_size": 64, "num_train": 40, "train_batch_size": 8}
    settings: dict[str, Any] = {"network": {"width": 0.125}, "patches": {"count": 3}, "optimizer": {"lr": 1e-3}}
    model, data = AnoSeg((64, 64), **settings, **BARE), DemoTextures("brick", **sizes)
    Trainer(max_epochs=1, limit_val_batches=0, **QUIET).fit(model, datamodule=data)
    yield {"configuration": "AnoSeg", "training": "demonstration"}, model.eval(), data


def make_engine(folder: Path, **settings: Any) -> Engine:  # noqa: ANN401
    """Make an engine that computes in float32 and prints nothing."""
    quiet = {name: value for name, value in QUIET.items() if name != "enable_checkpointing"}
    return Engine(devices=1, default_root_dir=folder, **quiet, **settings)


def with_sets(rows: list[Row]) -> pd.DataFrame:
    """Tabulate rows, with the set of each training."""
    table = pd.DataFrame(rows)
    table["set"] = table["training"].str.replace(r", seed \d+$", "", regex=True)
    return table
