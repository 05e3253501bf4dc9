"""What AnoSeg learns best from: few changes at a time, judged on synthetic anomalies alone.

Trains AnoSeg as `configs/laptop.yaml` says and with each of the changes in a file of trials, on the normal training
images of one or several sets, a fifth of which is held out. Every trial gets the same processor time, unless it names
its own. It is judged by anomalies on the held-out images, the same for all trials; no test image is touched:

- `drawn`: by the demonstration data's code, one of each kind on each image, from which no trial learns;
- `on object`: likewise, but drawn again until half of each lies on what stands out from the image's border, if anything
  does;
- `forged`: by the shipped augmentation, whose best threshold is the one of the others' `IoU at the forged threshold`.

A trial may also replace what is no argument of AnoSeg: the `batch`, the `seconds` of training, and the `normalisation`
layers of all networks, by `group` normalisation. One with a detector is judged by both image scores.

    python benchmarks/study.py --set datasets/mvtec/screw datasets/mvtec/toothbrush --seconds 120 --json study.json
    python benchmarks/study.py --only --json study.json --markdown

The file is written after each training; those that are in it already are not repeated.
"""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from pixel_loss import LAPTOP, QUIET, as_tensors, datamodule, iou_at, scores
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from anomalib_anoseg import AnoSeg, __version__
from anomalib_anoseg.common.machine import load_average
from anomalib_anoseg.data import defects
from anomalib_anoseg.training.budget import BudgetTimer, Stopwatch
from anomalib_anoseg.transforms import SyntheticAnomaly
from anomalib_anoseg.transforms.saliency import BorderContrast

TRIALS = Path(__file__).with_suffix(".yaml")
DEMO = "brick"
HELD_OUT = 24  # images of a set to judge on, at most
JUDGING_SEED = 10_000
ATTEMPTS = 50  # draws of a defect until it lies on the object
GROUP = 8  # channels, where layers normalise groups of them
NAMES = {"auroc": "AUROC", "ap": "AP", "best_iou": "best IoU"}
LENGTHS = ("seconds", "batch")  # what a trial may change beside the model
KINDS = ("drawn", "on object", "forged")
# Parts of anomalib that a judgement does without.
BARE: dict[str, Any] = {"post_processor": False, "evaluator": False, "visualizer": False}

VERSIONS = {"anomalib_anoseg": __version__, "torch": torch.__version__, "machine": platform.machine()}

Row = dict[str, Any]


def main() -> None:
    """Train and judge what is missing, then report."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    trials = yaml.safe_load(options.trials.read_text(encoding="utf-8"))
    chosen = trials if options.only is None else {name: trials[name] for name in options.only}
    rows: list[Row] = json.loads(options.json.read_text(encoding="utf-8"))["rows"] if options.json.exists() else []
    for seed in range(options.seeds):
        for name, changes in chosen.items():
            for folder in options.set or [None]:
                key = {"trial": name, "changes": changes} | settings_of(changes, options)
                key |= {"set": str(folder or "demonstration"), "seed": seed, "threads": options.threads}
                if not any(row.items() >= key.items() for row in rows):
                    rows.append(key | VERSIONS | run(changes, folder, seed, key["seconds"], key["batch"]))
                    options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
                    print(
                        name,
                        key["set"],
                        {figure: rows[-1][figure] for figure in ("on object AP", "forged AP")},
                        flush=True,
                    )
    if options.markdown:
        print(report([row for row in rows if row.items() >= settings_of(row["changes"], options).items()]))


def settings_of(changes: dict[str, Any], options: argparse.Namespace) -> Row:
    """Tell all settings of a trial: trainings of another configuration or length must not be taken for its own."""
    lengths = {name: changes.get(name, vars(options)[name]) for name in LENGTHS}
    return {"settings": laptop() | changes} | lengths


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else None)
    parser.add_argument("--trials", type=Path, default=TRIALS, help="YAML: name -> changes of configs/laptop.yaml")
    parser.add_argument("--only", nargs="*", help="names of trials; none, to report what there is")
    parser.add_argument(
        "--set", type=Path, nargs="*", default=[], help="folders in MVTec AD's layout; the demonstration if omitted"
    )
    parser.add_argument("--seconds", type=float, default=120, help="processor time of every training")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--markdown", action="store_true", help="print tables of the trainings of this length")
    return parser.parse_args()


def laptop() -> dict[str, Any]:
    """Read the model's arguments in `configs/laptop.yaml`."""
    settings: dict[str, Any] = yaml.safe_load(LAPTOP.read_text(encoding="utf-8"))["model"]["init_args"]
    return settings


def run(changes: dict[str, Any], folder: Path | None, seed: int, seconds: float, batch: int) -> Row:
    """Train one trial on one set and judge it."""
    settings = laptop()
    shipped = AnoSeg(**settings).augmenter
    changes = {name: value for name, value in changes.items() if name not in LENGTHS}
    normalisation = changes.pop("normalisation", "batch")
    model = AnoSeg(**(settings | changes | {"seed": seed}), **BARE)
    if normalisation == "group":
        normalise_groups(model)
    data = datamodule(folder.parent if folder else None, folder.name if folder else DEMO, batch)
    clock, load = Clock(), load_average()
    trainer = Trainer(
        precision="bf16-mixed",
        max_epochs=-1,
        limit_val_batches=0,
        callbacks=[clock, BudgetTimer(seconds, "cpu", clock.stopwatch)],
        **QUIET,
    )
    trainer.fit(model, datamodule=data)
    row: Row = {"load": load, "steps": trainer.fit_loop.total_batch_idx + 1}
    threshold = None
    for kind, (images, masks) in held_out(data, model, shipped).items():
        figures, best = judge(model, images, masks, threshold)
        threshold = best if threshold is None else threshold
        row |= {f"{kind} {name}": value for name, value in figures.items()}
    return row


def normalise_groups(module: nn.Module) -> None:
    """Replace all batch normalisation in a network, with fresh scales and shifts."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:  # timm's subclass has the activation in it
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


def held_out(data: Any, model: AnoSeg, shipped: SyntheticAnomaly) -> dict[str, tuple[Tensor, Tensor]]:  # noqa: ANN401
    """Make images and masks of each kind, the forged ones first, within them the normal images first."""
    resize: Any = model.pre_processor
    normal = torch.stack([resize(data.val_data[index].image) for index in range(min(HELD_OUT, len(data.val_data)))])
    forged, forged_mask = shipped.forge(normal, generator=torch.Generator().manual_seed(JUDGING_SEED))
    anywhere = torch.ones_like(forged_mask, dtype=torch.bool)
    bad = {
        "forged": (forged, forged_mask),
        "drawn": draw(normal, anywhere),
        "on object": draw(normal, find_object(normal)),
    }
    no_mask = torch.zeros_like(forged_mask)
    return {kind: (torch.cat((normal, image)), torch.cat((no_mask, mask))) for kind, (image, mask) in bad.items()}


def find_object(normal: Tensor) -> Tensor:
    """Find what stands out from the border of images, or all of an image if nothing does: bool ``(B, 1, H, W)``."""
    salient = BorderContrast()(normal) > 0.5
    return salient | ~salient.flatten(1).any(1)[:, None, None, None]


def draw(normal: Tensor, places: Tensor, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """Draw a defect of each kind on each image, half of it at least in those places: images and masks.

    The strength is the opacity of what was drawn, from 0 to 1: kinds differ in what they do with a strength of their
    own, and a splinter does nothing.
    """
    rng = np.random.default_rng(JUDGING_SEED)
    surfaces = [image.permute(1, 2, 0).double().numpy() for image in normal]
    pairs = [
        draw_one(kind, strength, surface, place.squeeze(0).numpy(), rng)
        for surface, place in zip(surfaces, places, strict=True)
        for kind in defects.DEFECTS.values()
    ]
    return as_tensors(pairs)


def draw_one(kind: Any, strength: float, surface: Any, place: Any, rng: np.random.Generator) -> tuple[Any, Any]:  # noqa: ANN401
    """Draw a defect until half of it lies in its place, or patience ends: a picture and its mask."""
    for _ in range(ATTEMPTS):
        faded = (1 - strength) * surface + strength * kind(surface, rng, 1.0)
        picture, mask = defects.mark_changes(surface, faded)
        if 2 * place[mask].sum() >= mask.sum():
            break
    return picture, mask


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


def report(rows: list[Row]) -> str:
    """Tabulate means over the sets: of the first seed, which all trials have, and of all, where there are several."""
    table = pd.DataFrame(rows)
    repeated = table[table.groupby("trial")["seed"].transform("max") > 0]
    tables = [table_of_means(table[table["seed"] == 0]), *([table_of_means(repeated)] if len(repeated) else [])]
    return "\n\n".join(tables)


def table_of_means(table: pd.DataFrame) -> str:
    """Tabulate means over sets and seeds, in the order of the trials, and the AP on the object on each set."""
    order = table["trial"].drop_duplicates()
    figures = [f"{kind} {name}" for kind in KINDS for name in NAMES.values()]
    figures += [name for name in table.columns if "image AUROC" in name or "threshold" in name]
    by_trial = table.groupby("trial")
    means = by_trial[["steps", *figures]].mean().loc[order]
    means.insert(0, "trainings", by_trial.size())
    each = table.pivot_table(index="trial", columns="set", values="on object AP").add_prefix("on object AP, ")
    return means.join(each).round(3).to_markdown()


if __name__ == "__main__":
    main()
