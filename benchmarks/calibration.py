"""On which forged anomalies AnoSeg's thresholds are best found.

A threshold that is best for bold anomalies, from which a network learned, lies too high for real defects, which it
marks with less confidence. So the best thresholds are found on anomalies of several kinds, forged by AnoSeg's own
augmentation on the normal images that a training held out, and judged by others on the same images: one of each kind
that the demonstration data's code draws, at full, half and a quarter of the strength, on the object if there is one.
What counts for the pixel threshold is the share of the best IoU that is left at it; for the image threshold the
balanced accuracy, the mean of the share of anomalies that are found and of the share of normal images that pass.

With `--test` it is also told what is left on the test images. That is for the record: nothing may be chosen by it.

Trainings are job folders of a board; run it where the board ran, because their data may have relative paths. Without
any, a network that saw a few pictures of the demonstration data shows that the script works.

    python benchmarks/calibration.py runs/five_minutes/jobs/AnoSeg-Lite0-frozen-* --test --json calibration.json
    python benchmarks/calibration.py --others calibration.json calibration_laptop.json --markdown
"""

import argparse
import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from lightning.pytorch import Trainer
from pixel_loss import iou_at, scores
from study import BARE, HELD_OUT, JUDGING_SEED, VERSIONS, draw, find_object
from torch import Tensor
from torchmetrics.functional.classification import binary_recall, binary_specificity

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.data import DemoTextures
from anomalib_anoseg.leaderboard.pictures import Pictures, resize_of
from anomalib_anoseg.leaderboard.rebuild import load_job
from anomalib_anoseg.leaderboard.runs import RunFolder
from anomalib_anoseg.post_processing import SelfCalibratingPostProcessor
from anomalib_anoseg.transforms.saliency import NoSaliency

SMALL, HALF_FAINT = {"area": (0.001, 0.02)}, {"opacity": (0.15, 0.5)}
FAINT, FAINTER = {"opacity": (0.15, 0.3)}, {"opacity": (0.1, 0.2)}
BOTH_FAINT = {"opacity": (0.1, 0.3)}
ANYWHERE: dict[str, Any] = {"saliency": NoSaliency()}
CALIBRATIONS: dict[str, dict[str, Any]] = {
    "as in training": {},
    "as in training, anywhere": ANYWHERE,
    "small": SMALL,
    "faint": FAINT,
    "small and half as faint": SMALL | HALF_FAINT,
    "small and faint": SMALL | FAINT,
    "small and faint or fainter": SMALL | BOTH_FAINT,
    "small and faint, anywhere": SMALL | FAINT | ANYWHERE,
    "fainter": FAINTER,
    "small and fainter": SMALL | FAINTER,
}
TOGETHER = ", and as in training"
FORGED_IMAGES = SelfCalibratingPostProcessor().forged_images
STRENGTHS = (1.0, 0.5, 0.25)

Labelled = tuple[Tensor, Tensor]
Row = dict[str, Any]


class Predicted(NamedTuple):
    """What a network says of images, and what is true."""

    maps: Tensor  # (N, 1, H, W), as the network gives them
    masks: Tensor  # (N, 1, H, W)
    image_scores: Tensor  # (N,)
    labels: Tensor  # (N,)


def main() -> None:
    """Judge every calibration of every training, then report."""
    options = parse_options()
    torch.set_num_threads(1)
    found = demonstration() if not options.jobs and not options.others else trainings(options.jobs)
    rows = [row for names, model, data in found for row in judge(names, model, data, options.test)]
    if options.json:
        options.json.write_text(json.dumps({**VERSIONS, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        others = [json.loads(file.read_text(encoding="utf-8"))["rows"] for file in options.others]
        print(report(sum(others, rows)))


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else None)
    parser.add_argument("jobs", type=Path, nargs="*", help="job folders of a board with AnoSeg")
    parser.add_argument("--test", action="store_true", help="also tell what is left on test images")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", action="store_true", help="print a table")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="JSON of other trainings for that table")
    return parser.parse_args()


def trainings(folders: list[Path]) -> Iterator[tuple[dict[str, str], AnoSeg, Any]]:
    """Load the trained models, with their configuration's name and their own, and their data."""
    for folder in folders:
        row = RunFolder(folder.parent.parent).row(folder.name)
        if row is None:
            raise SystemExit(f"{folder} is no folder of a finished job")
        names = {"configuration": row.label, "training": f"{row.data_name}, seed {row.seed}"}
        yield names, *load_job(folder, row)


def demonstration() -> Iterator[tuple[dict[str, str], AnoSeg, Any]]:
    """Train a tiny network for an epoch."""
    sizes: dict[str, Any] = {"image_size": 64, "num_train": 40, "train_batch_size": 8}
    model, data = AnoSeg((64, 64), width=0.125, patch_count=3, lr=1e-3, **BARE), DemoTextures("brick", **sizes)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data)
    yield {"configuration": "AnoSeg", "training": "demonstration"}, model.eval(), data


def judge(names: dict[str, str], model: AnoSeg, data: Any, with_test: bool) -> list[Row]:  # noqa: ANN401
    """Find the threshold of every calibration and what is left at it, for every kind of anomaly."""
    pictures, resize = Pictures(data, model), resize_of(model)
    normal = torch.stack([resize(data.val_data[index].image) for index in range(min(HELD_OUT, len(data.val_data)))])
    kinds = {f"drawn, strength {strength:g}": judged_on(normal, strength) for strength in STRENGTHS}
    if with_test:
        batches = list(pictures.for_test())
        kinds["test"] = torch.cat([batch.image for batch in batches]), torch.cat([batch.mask for batch in batches])
    found_on = {name: predicted(model, forged(model, normal, changes)) for name, changes in CALIBRATIONS.items()}
    rows = []
    for kind, labelled in kinds.items():
        prediction = predicted(model, labelled)
        judged = [*of_pixels(found_on, prediction), *of_images(found_on, prediction)]
        rows += [names | {"judged on": kind} | row for row in judged]
    return rows


def of_pixels(found_on: dict[str, Predicted], prediction: Predicted) -> Iterator[Row]:
    """Judge the pixel threshold of every calibration."""
    best = scores(prediction.maps, prediction.masks)["best_iou"]
    for calibration, found in found_on.items():
        threshold = scores(found.maps, found.masks)["best_threshold"]
        iou = iou_at(prediction.maps, prediction.masks, threshold)
        figures = {"IoU": iou, "best IoU": best, "share": round(iou / best, 4)}
        yield {"of": "pixels", "calibration": calibration, "threshold": round(threshold, 4), **figures}


def of_images(found_on: dict[str, Predicted], prediction: Predicted) -> Iterator[Row]:
    """Judge the image threshold of every calibration, alone and together with anomalies as in training."""
    learned = next(iter(found_on.values()))
    for calibration, found in found_on.items():
        for together, parts in enumerate([[found], [found, learned]][: 1 + (found is not learned)]):
            image_scores = torch.cat([part.image_scores for part in parts])
            # Where the IoU is highest, F1 is, too.
            threshold = scores(image_scores, torch.cat([part.labels for part in parts]))["best_threshold"]
            called, labels = (prediction.image_scores >= threshold).int(), prediction.labels.int()
            share, normal = binary_recall(called, labels).item(), binary_specificity(called, labels).item()
            figures = {"found": round(share, 4), "false alarms": round(1 - normal, 4)}
            figures["balanced accuracy"] = round((share + normal) / 2, 4)
            name = f"{calibration}{TOGETHER * together}"
            yield {"of": "images", "calibration": name, "threshold": round(threshold, 4), **figures}


def judged_on(normal: Tensor, strength: float) -> Labelled:
    """Draw defects on the object in images, and put the normal ones before them."""
    image, mask = draw(normal, find_object(normal), strength)
    return torch.cat((normal, image)), torch.cat((torch.zeros(len(normal), *mask.shape[1:]), mask))


def forged(model: AnoSeg, normal: Tensor, changes: dict[str, Any]) -> Labelled:
    """Forge anomalies as the model's training did, but for some changes, and put the normal images before them.

    Several times on each image, where there are few, as AnoSeg's own calibration does.
    """
    normal = normal.repeat(math.ceil(FORGED_IMAGES / len(normal)), 1, 1, 1)
    forger, changes = copy.deepcopy(model.augmenter), dict(changes)
    forger.saliency = changes.pop("saliency", forger.saliency)
    forger.flags = {**forger.flags, **changes}
    image, mask = forger.forge(normal, generator=torch.Generator().manual_seed(JUDGING_SEED))
    return torch.cat((normal, image)), torch.cat((torch.zeros_like(mask), mask))


@torch.no_grad()
def predicted(model: AnoSeg, labelled: Labelled) -> Predicted:
    """Predict maps and image scores, as the network gives them."""
    images, masks = labelled
    predictions: list[Any] = [model.model(chunk) for chunk in images.split(16)]
    maps = torch.cat([prediction.anomaly_map for prediction in predictions])
    image_scores = torch.cat([prediction.pred_score for prediction in predictions])
    masks = masks.view_as(maps)
    return Predicted(maps, masks, image_scores, masks.flatten(1).any(1))


def report(rows: list[Row]) -> str:
    """Tabulate what was judged on drawn defects, and on the test images of each set, for pixels and for images."""
    table = pd.DataFrame(rows)
    table["set"] = table["training"].str.replace(r", seed \d+$", "", regex=True)
    of = dict(iter(table.groupby("of")))
    pixels = summary(of["pixels"], ["share"])
    images = summary(of["images"], ["balanced accuracy", "found", "false alarms"])
    return "\n\n".join(part.round(3).to_markdown() for part in (pixels, images))


def summary(table: pd.DataFrame, figures: list[str]) -> pd.DataFrame:
    """Take means over drawn defects, and of the first figure the least, and the mean on each set and its test images.

    The least is that of the means over the seeds of a configuration, a set and a strength.
    """
    is_test, first = table["judged on"] == "test", figures[0]
    drawn = table[~is_test].groupby(["calibration", "configuration", "set", "judged on"], sort=False)[figures].mean()
    by_calibration = drawn.groupby("calibration", sort=False)
    means = by_calibration.mean()
    means.insert(1, "least", by_calibration[first].min())
    each = drawn.reset_index().pivot_table(index="calibration", columns="set", values=first)
    test = table[is_test].pivot_table(index="calibration", columns=["configuration", "set"], values=first)
    test.columns = [f"test: {', '.join(column)}" for column in test.columns]
    return means.join(each).join(test)


if __name__ == "__main__":
    main()
