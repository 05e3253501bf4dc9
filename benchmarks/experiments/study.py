"""Compare changes of AnoSeg's short training by synthetic anomalies only.

AnoSeg is trained as in `configs/laptop.yaml` and with each of the changes in a file of trials, on the normal training
images of one or several sets. Every trial gets the same processor time, unless it names its own. It is judged by
anomalies on held-out images, the same for all trials; no test image is used:

- `drawn`: by the demonstration data's code, one of each kind on each image, from which no trial learns;
- `on object`: likewise, but at least half of each lies on what stands out from the image's border, if anything does;
- `sharp`: likewise, of the four small kinds with sharp edges that rank settings most as real defects do, see kinds.md;
- `forged`: by the shipped augmentation. Its best threshold gives the others' `IoU at the forged threshold`.

A trial may also change more than AnoSeg's arguments: the `batch`, the `seconds` of training, and the `normalisation`
layers of all networks, by `group`. One with a detector is judged by both image scores. Pages: short_training.md,
short_training_changes.md, frozen_encoder.md, detector.md.

    python -m benchmarks.experiments.study --set datasets/mvtec/screw datasets/mvtec/toothbrush \
        --seconds 120 --json study.json
    python -m benchmarks.experiments.study --only --json study.json --markdown --csv study.csv
    python -m benchmarks.experiments.study --report benchmarks/results/study.csv

The JSON file is written after each training. Trainings that it holds are not repeated.
"""

import argparse
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.common.machine import load_average
from anomalib_anoseg.common.presets import merge
from anomalib_anoseg.training.budget import BudgetTimer, Stopwatch
from anomalib_anoseg.transforms import SyntheticAnomaly
from benchmarks.common import BARE, QUIET, Row, begin, by_group, make_parser, origin, preset
from benchmarks.experiments.drawing import SHARP, WIDE
from benchmarks.experiments.judging import (
    JUDGING_SEED,
    after_normal,
    draw,
    find_object,
    held_out,
    iou_at,
    make_data,
    scores,
)
from benchmarks.experiments.trainings import run_missing

TRIALS = Path(__file__).with_suffix(".yaml")
GROUP = 8  # channels, where layers normalise groups of them
NAMES = {"auroc": "AUROC", "ap": "AP", "best_iou": "best IoU"}
LENGTHS = ("seconds", "batch")  # what a trial may change beside the model
KINDS = ("drawn", "on object", "sharp", "forged")


def main() -> None:
    """Train and judge what is missing, then report."""
    options = parse_options()
    begin(options)
    if options.report:
        print(report(pd.read_csv(options.report)))
        return
    trials = yaml.safe_load(options.trials.read_text(encoding="utf-8"))
    chosen = trials if options.only is None else {name: trials[name] for name in options.only}
    runs = []
    for seed, (name, changes), folder in product(range(options.seeds), chosen.items(), options.set or [None]):
        key = {"trial": name, "changes": changes} | settings_of(changes, options)
        key |= {"set": str(folder or "demonstration"), "seed": seed, "threads": options.threads}
        runs.append((key, partial(run, changes, folder, seed, key["seconds"], key["batch"])))
    rows = run_missing(options.json, runs, ("sharp AP", "forged AP"))
    table = pd.DataFrame([row for row in rows if row.items() >= settings_of(row["changes"], options).items()])
    if options.csv:
        small = table.drop(columns=["changes", "settings", "threads", "load", *origin()]).round(3)
        small.to_csv(options.csv, index=False, lineterminator="\n")
    if options.markdown:
        print(report(table))


def settings_of(changes: dict[str, Any], options: argparse.Namespace) -> Row:
    """Return all settings of a trial, which distinguish it from trainings of another configuration or length."""
    lengths = {name: changes.get(name, vars(options)[name]) for name in LENGTHS}
    return {"settings": merge(preset("laptop"), by_group(changes))} | lengths


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "set", "threads", "markdown")
    parser.add_argument("--trials", type=Path, default=TRIALS, help="YAML: name -> changes of configs/laptop.yaml")
    parser.add_argument("--only", nargs="*", help="names of trials (default: all); without names, only report")
    parser.add_argument("--seconds", type=float, default=120, help="processor time of every training")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--csv", type=Path, metavar="PATH", help="write the trainings of this length as a small table")
    parser.add_argument("--report", type=Path, metavar="CSV", help="only print the tables of a file that --csv wrote")
    options = parser.parse_args()
    if not options.json and not options.report:
        parser.error("trainings need --json, where they are kept")
    return options


def run(changes: dict[str, Any], folder: Path | None, seed: int, seconds: float, batch: int) -> Row:
    """Train one trial on one set and judge it."""
    settings = preset("laptop")
    shipped = AnoSeg(**settings).augmenter
    changes = {name: value for name, value in changes.items() if name not in LENGTHS}
    normalisation = changes.pop("normalisation", "batch")
    model = AnoSeg(**merge(settings, by_group(changes)), seed=seed, **BARE)
    if normalisation == "group":
        normalise_groups(model)
    data = make_data(folder, batch)
    clock, load_before = Clock(), load_average()
    trainer = Trainer(
        precision="bf16-mixed",
        max_epochs=-1,
        limit_val_batches=0,
        callbacks=[clock, BudgetTimer(seconds, "cpu", clock.stopwatch)],
        **QUIET,
    )
    trainer.fit(model, datamodule=data)
    row: Row = origin() | {"load": load_before, "steps": trainer.fit_loop.total_batch_idx + 1}
    threshold = None
    for kind, (images, masks) in held_out_anomalies(data, model, shipped).items():
        figures, best = judge(model, images, masks, threshold)
        threshold = best if threshold is None else threshold
        row |= {f"{kind} {name}": value for name, value in figures.items()}
    return row


def normalise_groups(module: nn.Module) -> None:
    """Replace all batch normalisation in a network, with fresh scales and shifts."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:  # timm's subclass includes the activation
            setattr(module, name, nn.GroupNorm(max(1, child.num_features // GROUP), child.num_features))
        else:
            normalise_groups(child)


class Clock(Callback):
    """Starts a stopwatch with the training."""

    def __init__(self) -> None:
        self.stopwatch = Stopwatch()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        del trainer, pl_module
        self.stopwatch.start()


def held_out_anomalies(data: Any, model: AnoSeg, shipped: SyntheticAnomaly) -> dict[str, tuple[Tensor, Tensor]]:  # noqa: ANN401
    """Make images and masks of each kind, `forged` first; in each kind, normal images come first."""
    normal = held_out(data, model)
    forged, forged_mask = shipped.forge(normal, generator=torch.Generator().manual_seed(JUDGING_SEED))
    anywhere, on_object = torch.ones_like(forged_mask, dtype=torch.bool), find_object(normal)
    bad = {
        "forged": (forged, forged_mask),
        "drawn": draw(normal, anywhere),
        "on object": draw(normal, on_object),
        "sharp": draw(normal, on_object, kinds={kind: WIDE[kind] for kind in SHARP}),
    }
    return {kind: after_normal(normal, pair) for kind, pair in bad.items()}


@torch.no_grad()
def judge(model: AnoSeg, images: Tensor, masks: Tensor, threshold: float | None) -> tuple[dict[str, float], float]:
    """Measure the map over all pixels, and every image score that the model has; also find the best threshold."""
    model.eval()
    is_anomalous, figures = masks.flatten(1).amax(1).int(), {}
    for score in ("detector", "map") if model.model.detector is not None else ("map",):
        model.model.image_score = score
        predictions: list[Any] = [model.model(chunk) for chunk in images.split(16)]
        image_score = torch.cat([prediction.pred_score for prediction in predictions])
        figures[f"image AUROC by {score}"] = round(binary_auroc(image_score, is_anomalous).item(), 4)
    maps = torch.cat([prediction.anomaly_map for prediction in predictions])
    of_map = scores(maps, masks)
    figures |= {figure: of_map[name] for name, figure in NAMES.items()}
    if threshold is not None:
        figures["IoU at the forged threshold"] = iou_at(maps, masks, threshold)
    return figures, of_map["best_threshold"]


def report(table: pd.DataFrame) -> str:
    """Tabulate means over the sets: of the first seed, which all trials have, and of all, where there are several."""
    repeated = table[table.groupby("trial")["seed"].transform("max") > 0]
    tables = [table_of_means(table[table["seed"] == 0]), *([table_of_means(repeated)] if len(repeated) else [])]
    return "\n\n".join(tables)


def table_of_means(table: pd.DataFrame) -> str:
    """Tabulate means over sets and seeds, in the order of the trials, and the AP of sharp defects on each set."""
    order = table["trial"].drop_duplicates()
    # Sharp ones are younger than some trainings.
    kinds = [kind for kind in KINDS if f"{kind} AP" in table and table[f"{kind} AP"].notna().all()]
    figures = [f"{kind} {name}" for kind in kinds for name in NAMES.values()]
    figures += [name for name in table.columns if "image AUROC" in name or "threshold" in name]
    by_trial = table.groupby("trial")
    means = by_trial[["steps", *figures]].mean().loc[order]
    means.insert(0, "trainings", by_trial.size())
    judge = "sharp AP" if "sharp" in kinds else "on object AP"
    each = table.pivot_table(index="trial", columns="set", values=judge).add_prefix(f"{judge}, ")
    return means.join(each).round(3).to_markdown()


if __name__ == "__main__":
    main()
