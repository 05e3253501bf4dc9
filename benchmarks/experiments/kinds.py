"""Which kinds of anomaly to forge, and whether drawn defects rank settings as real ones do.

Presets are trained with changes, all for the same processor time, on at most 60 good pictures of each set. They are
judged by defects that are drawn on the object in held-out good pictures: of the demonstration data's five kinds
(`drawn`), of these and five more (`wide`), and of the four of all that are small and have sharp edges (`sharp`), the
mean over kinds of pixel AP. Real defects are measured beside them, to judge these judges: no setting is chosen by them.
Page: kinds.md.

    python -m benchmarks.experiments.kinds --set datasets/mvtec/screw datasets/mvtec/toothbrush \
        --weights datasets/tf_efficientnet_lite0.pth --json kinds.json --csv kinds.csv
    python -m benchmarks.experiments.kinds --report benchmarks/results/kinds.csv

The JSON file is written after each training. Trainings that it holds are not repeated.
"""

import argparse
from collections.abc import Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional as F

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.data.defects import DEFECTS
from anomalib_anoseg.training.budget import BudgetTimer
from benchmarks.common import BARE, QUIET, Row, begin, make_parser
from benchmarks.experiments.drawing import SHARP, WIDE
from benchmarks.experiments.judging import DEMO, after_normal, draw, find_object, held_out, make_data, scores
from benchmarks.experiments.study import Clock
from benchmarks.experiments.trainings import of_preset, run_missing

TRIALS = Path(__file__).with_suffix(".yaml")
TRAINED, HELD_OUT, TESTED = 60, 9, 60  # pictures of a set, at most
JUDGES = ("drawn", "wide")


def main() -> None:
    """Train and judge what is missing, then report."""
    options = parse_options()
    begin(options)
    if options.report:
        print(report(pd.read_csv(options.report)))
        return
    trials = yaml.safe_load(options.trials.read_text(encoding="utf-8"))
    chosen = trials if options.only is None else {name: trials[name] for name in options.only}
    lengths = {"seconds": options.seconds, "size": options.size}
    runs = [
        (
            {"trial": name, "changes": changes, "set": folder.name if folder else DEMO, "seed": seed} | lengths,
            partial(run, changes, folder, seed, options),
        )
        for seed, (name, changes), folder in product(options.seeds, chosen.items(), options.set or [None])
    ]
    rows = run_missing(options.json, runs, (*JUDGES, "real"))
    table = pd.DataFrame(rows).drop(columns="changes")
    if options.csv:
        table.round(3).to_csv(options.csv, index=False, lineterminator="\n")
    print(report(table))


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "set", "weights", "threads")
    parser.add_argument("--trials", type=Path, default=TRIALS, help="YAML: name -> preset and changes of it")
    parser.add_argument("--only", nargs="*", help="names of trials (default: all); without names, only report")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--seconds", type=float, default=30, help="processor time of every training")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--csv", type=Path, metavar="PATH", help="write the trainings as a small table")
    parser.add_argument("--report", type=Path, metavar="CSV", help="only print the tables of a file that --csv wrote")
    options = parser.parse_args()
    if not options.json and not options.report:
        parser.error("trainings need --json, where they are kept")
    return options


def run(changes: dict[str, Any], folder: Path | None, seed: int, options: argparse.Namespace) -> Row:
    """Train one trial on one set and judge it."""
    changes = {"image_size": (options.size, options.size)} | changes
    model = of_preset(changes.pop("preset"), options.weights, changes, seed=seed, **BARE)
    clock = Clock()
    trainer = fit(model, folder, callbacks=[clock, BudgetTimer(options.seconds, "cpu", clock.stopwatch)])
    return {"steps": trainer.fit_loop.total_batch_idx + 1} | judge(model.eval(), folder)


def fit(model: Any, folder: Path | None, **limits: Any) -> Trainer:  # noqa: ANN401
    """Train on at most 60 good pictures of a set, until one of the trainer's limits."""
    data = read_data(folder)
    data.train_data = thin(data.train_data, TRAINED)
    data.setup = lambda **_: None  # the trainer's call would take all pictures again
    trainer = Trainer(max_epochs=-1, limit_val_batches=0, **limits, **QUIET)
    trainer.fit(model, datamodule=data)
    return trainer


def judge(model: Any, folder: Path | None) -> Row:  # noqa: ANN401
    """Measure AP over all pixels: of each kind of drawn defects, their means, and of real defects."""
    size = tuple(model.image_size)
    normal, drawn = drawn_defects(folder, size)
    maps = predict(model, normal)
    by_kind = {
        name: scores(*after_normal(maps, (predict(model, images), masks)))["ap"]
        for name, (images, masks) in drawn.items()
    }
    images, masks = real_defects(folder, size)
    return {
        "drawn": round(sum(by_kind[name] for name in DEFECTS) / len(DEFECTS), 4),
        "wide": round(sum(by_kind.values()) / len(by_kind), 4),
        "real": scores(predict(model, images), masks)["ap"],
        **by_kind,
    }


def read_data(folder: Path | None) -> Any:  # noqa: ANN401
    """Set up a set, or the demonstration."""
    data = make_data(folder)
    data.setup()
    return data


def thin(dataset: Any, number: int) -> Any:  # noqa: ANN401
    """Take evenly spaced pictures of a set."""
    step = max(1, -(-len(dataset) // number))
    return dataset.subsample(list(range(0, len(dataset), step)))


@cache
def drawn_defects(folder: Path | None, size: tuple[int, int]) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Draw a defect of each kind on held-out pictures; also return these as they are."""
    data = read_data(folder)
    network: Any = {"width": 0.125}
    model: Any = AnoSeg(size, network=network, **BARE)
    normal = held_out(data, model, HELD_OUT)
    return normal, draw_each(normal)


def draw_each(normal: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Draw a defect of each kind on pictures: images and masks by kind."""
    places = find_object(normal)
    return {name: draw(normal, places, kinds={name: kind}) for name, kind in WIDE.items()}


@cache
def real_defects(folder: Path | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Read test pictures of a set and their masks."""
    return read_tested(read_data(folder), TESTED, size)


def read_tested(data: Any, number: int, size: Sequence[int]) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Read evenly spaced test pictures and their masks: ``(N, 3, H, W)`` and ``(N, 1, H, W)``."""
    tested, size = thin(data.test_data, number), (size[0], size[1])
    items = [tested[index] for index in range(len(tested))]
    images = torch.cat([F.interpolate(item.image[None], size, mode="bilinear", antialias=True) for item in items])
    masks = [F.interpolate(item.gt_mask[None, None].float(), size, mode="nearest-exact") for item in items]
    return images.clamp(0, 1), torch.cat(masks)


@torch.no_grad()
def predict(model: Any, images: Tensor) -> Tensor:  # noqa: ANN401
    """Predict maps ``(N, 1, H, W)``."""
    return torch.cat([model.model(chunk).anomaly_map for chunk in images.split(16)])


def report(table: pd.DataFrame) -> str:
    """Tabulate, for each length, how drawn defects rank the trials of seed 0 beside real ones, and the trials."""
    tables, table = [], table.assign(sharp=table[list(SHARP)].mean(axis=1))
    for _, rows in table.groupby(["size", "seconds"]):
        first = rows[rows["seed"] == 0]
        ranks = rank(first)
        for model, part in first.groupby(first["trial"].str.split(",").str[0]):
            ranks[f"{model} alone, mean"] = rank(part)["mean"]
        by_trial = rows.groupby("trial", sort=False)
        means = by_trial[["steps", *JUDGES, "sharp", "real"]].mean()
        means.insert(0, "trainings", by_trial.size())
        each = rows.pivot_table(index="trial", columns="set", values=["sharp", "real"])
        each.columns = [" ".join(pair) for pair in each.columns]
        tables += [ranks, means.join(each).sort_values("sharp", ascending=False)]
    return "\n\n".join(shown.round(3).to_markdown() for shown in tables)


def rank(rows: pd.DataFrame) -> pd.DataFrame:
    """Compute Spearman's correlation of each judge with real defects over the trials: on each set, and the mean."""
    by_set = {name: part.set_index("trial") for name, part in rows.groupby("set")}
    ranks = {
        name: {judge: part[judge].corr(part["real"], "spearman") for judge in (*JUDGES, "sharp", *WIDE)}
        for name, part in by_set.items()
    }
    return pd.DataFrame(ranks).assign(mean=lambda correlations: correlations.mean(axis=1))


if __name__ == "__main__":
    main()
