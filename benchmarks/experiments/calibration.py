"""Compare kinds of anomalies for finding AnoSeg's thresholds.

For every kind of anomaly the best threshold is found on anomalies that AnoSeg's own augmentation forges on held-out
normal images, as many as at the end of a training. It is judged by other anomalies on the same images: defects that the
demonstration data's code draws, on the object if there is one, at full, half, quarter and eighth opacity, all together
and each alone. The pixel threshold is judged by the share of the best IoU that it reaches, the image threshold by its
balanced accuracy. Thresholds of random subsets show how much depends on which anomalies are forged.

With `--test`, thresholds are judged on test images, too. That is for the record: nothing may be chosen by it. Pages:
pixel_threshold.md, image_threshold.md, number_of_forged_images.md, laptop_thresholds.md, noise.md.

Trainings are job folders of a board. Run this where the board ran, because their data may have relative paths. Without
any, a network that saw a few pictures of the demonstration data shows that the script works.

    python -m benchmarks.experiments.calibration runs/published_decoder{,_tile}/jobs/AnoSeg-with-noise-* --test \
        --json calibration.json
    python -m benchmarks.experiments.calibration --others calibration.json --markdown --summary summary.json
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
from torch import Tensor
from torchmetrics.functional.classification import binary_recall, binary_specificity

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.board.report.statistics import half_width
from anomalib_anoseg.deploy.pictures import Pictures, resize_of
from anomalib_anoseg.metrics.functional import binary_iou_curve, iou_curve_compute, score_histogram
from anomalib_anoseg.training.post_processor import MAX_NORMAL_IMAGES, SelfCalibratingPostProcessor
from anomalib_anoseg.transforms import OneOf
from anomalib_anoseg.transforms.saliency import NoSaliency
from benchmarks.common import Row, begin, make_parser, write_json
from benchmarks.experiments.judging import JUDGING_SEED, draw, find_object, scores
from benchmarks.experiments.trainings import demonstration, trainings, with_sets

SMALL, HALF_FAINT = {"area": (0.001, 0.02)}, {"opacity": (0.15, 0.5)}
FAINT, FAINTER = {"opacity": (0.15, 0.3)}, {"opacity": (0.1, 0.2)}
BOTH_FAINT = {"opacity": (0.1, 0.3)}
ANYWHERE: dict[str, Any] = {"saliency": NoSaliency()}
WITH_NOISE = {"with_noise": True}  # changed as patches are, except its size, which is not one of its arguments
SHIPPED, TRAINING = "faint, with noise", "as in training"  # in laptop_pretrained.yaml; in laptop.yaml
CALIBRATIONS: dict[str, dict[str, Any]] = {
    TRAINING: {},
    "as in training, anywhere": ANYWHERE,
    "small": SMALL,
    "faint": FAINT,
    "small and half as faint": SMALL | HALF_FAINT,
    "small and faint": SMALL | FAINT,
    "small and faint or fainter": SMALL | BOTH_FAINT,
    "small and faint, anywhere": SMALL | FAINT | ANYWHERE,
    "fainter": FAINTER,
    "small and fainter": SMALL | FAINTER,
    SHIPPED: FAINT | WITH_NOISE,
    "fainter, with noise": FAINTER | WITH_NOISE,
    "small and faint or fainter, with noise": SMALL | BOTH_FAINT | WITH_NOISE,
}
NUMBERS, LOTS = (20, 64, 200), 50  # of forged images; random subsets of each number
FORGED_IMAGES = SelfCalibratingPostProcessor().forged_images
STRENGTHS = (1.0, 0.5, 0.25, 0.125)  # the last is barely visible
BINS = 4096  # of thresholds
DRAWN, TEST = "drawn", "test"  # what a calibration is chosen by, and what it may not be chosen by
DRAWN_ON = 24  # images at least: each gets a defect of each kind


class Predicted(NamedTuple):
    """A network's predictions and the ground truth."""

    maps: Tensor  # (N, 1, H, W), in [0, 1], as the network gives them
    masks: Tensor  # (N, 1, H, W), bool
    image_scores: Tensor  # (N,)
    labels: Tensor  # (N,), bool

    def several_times_before(self, others: "Predicted", times: int | None = None) -> "Predicted":
        """Repeat these to the number of others, or ``times`` times, and put them before the others."""
        times = len(others.maps) // len(self.maps) if times is None else times
        return Predicted(*(torch.cat((*[own] * times, other)) for own, other in zip(self, others, strict=True)))


def main() -> None:
    """Judge every calibration of every training, then report."""
    options = parse_options()
    begin(options)
    found = demonstration() if not options.jobs and not options.others else trainings(options.jobs)
    chosen = [TRAINING, *(name for name in options.only or CALIBRATIONS if name != TRAINING)]
    rows = [row for names, model, data in found for row in judge(names, model, data, chosen, options.test)]
    write_json(options, rows=rows)
    if options.markdown or options.summary:
        others = [json.loads(file.read_text(encoding="utf-8"))["rows"] for file in options.others]
        tables = summarise(sum(others, rows))
        if options.markdown:
            print("\n\n".join(table.round(3).to_markdown() for table in tables.values()))
        if options.summary:
            options.summary.write_text(as_json(tables), encoding="utf-8")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "markdown")
    parser.add_argument("jobs", type=Path, nargs="*", help="job folders of a board with AnoSeg")
    parser.add_argument("--only", nargs="*", choices=CALIBRATIONS, help="calibrations beside training's (default: all)")
    parser.add_argument("--test", action="store_true", help="also judge on test images")
    parser.add_argument("--summary", type=Path, metavar="PATH", help="write the tables as JSON")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="JSON of more trainings for the tables")
    return parser.parse_args()


def judge(
    names: dict[str, str],
    model: AnoSeg,
    data: Any,  # noqa: ANN401
    calibrations: list[str],
    with_test: bool,
) -> list[Row]:
    """Find the threshold of each calibration and judge it by every kind of anomaly."""
    pictures, resize = Pictures(data, model), resize_of(model)
    images = [resize(data.val_data[index].image) for index in range(min(MAX_NORMAL_IMAGES, len(data.val_data)))]
    image = torch.stack(images)
    normal = predict(model, image, torch.zeros(len(image), 1, *image.shape[-2:]))
    found_on = {
        name: normal.several_times_before(predict(model, *forge(model, image, CALIBRATIONS[name])))
        for name in calibrations
    }
    kinds = draw_all(model, image, normal)
    if with_test:
        batches = list(pictures.for_test())
        tested = torch.cat([resize(batch.image) for batch in batches])
        masks = torch.cat([batch.mask for batch in batches])
        kinds[TEST] = predict(model, tested, masks)
    rows = []
    for kind, prediction in kinds.items():
        judged = [*of_pixels(found_on, prediction), *of_images(found_on, prediction)]
        if kind in {DRAWN, TEST}:
            judged += of_numbers(found_on, prediction)
        rows += [names | {"judged on": kind} | row for row in judged]
    return rows


def draw_all(model: AnoSeg, image: Tensor, normal: Predicted) -> dict[str, Predicted]:
    """Draw defects of every kind on the object, of all strengths and of each; predict normal images, then these."""
    image = several_times(image, DRAWN_ON)
    places = find_object(image)
    drawn = {f"drawn, strength {strength:g}": draw(image, places, strength) for strength in STRENGTHS}
    predicted = {name: predict(model, *pair) for name, pair in drawn.items()}
    together = Predicted(*(torch.cat(parts) for parts in zip(*predicted.values(), strict=True)))
    times = len(image) // len(normal.maps)
    return {name: normal.several_times_before(other, times) for name, other in ({DRAWN: together} | predicted).items()}


def of_pixels(found_on: dict[str, Predicted], prediction: Predicted) -> Iterator[Row]:
    """Judge the pixel threshold of every calibration."""
    iou, thresholds = binary_iou_curve(prediction.maps, prediction.masks, BINS)
    for calibration, found in found_on.items():
        place = binary_iou_curve(found.maps, found.masks, BINS)[0].argmax()
        left, best = iou[place].item(), iou.max().item()
        figures = {"IoU": round(left, 4), "best IoU": round(best, 4), "share": round(left / best, 4)}
        yield {"of": "pixels", "calibration": calibration, "threshold": round(thresholds[place].item(), 4), **figures}


def of_images(found_on: dict[str, Predicted], prediction: Predicted) -> Iterator[Row]:
    """Judge the image threshold of every calibration, alone and together with anomalies as in training."""
    learned = found_on[TRAINING]
    alone = {name: [found] for name, found in found_on.items()}
    together = {f"{name}, and {TRAINING}": [found, learned] for name, found in found_on.items() if name != TRAINING}
    for calibration, parts in (alone | together).items():
        image_scores = torch.cat([part.image_scores for part in parts])
        # Where the IoU is highest, F1 is, too.
        threshold = scores(image_scores, torch.cat([part.labels for part in parts]))["best_threshold"]
        called, labels = (prediction.image_scores >= threshold).int(), prediction.labels.int()
        share, normal = binary_recall(called, labels).item(), binary_specificity(called, labels).item()
        figures = {"found": round(share, 4), "false alarms": round(1 - normal, 4)}
        figures["balanced accuracy"] = round((share + normal) / 2, 4)
        yield {"of": "images", "calibration": calibration, "threshold": round(threshold, 4), **figures}


def of_numbers(found_on: dict[str, Predicted], prediction: Predicted) -> Iterator[Row]:
    """Judge pixel thresholds found on random subsets of the forged images, and as many normal ones."""
    iou, _ = binary_iou_curve(prediction.maps, prediction.masks, BINS)
    generator = torch.Generator().manual_seed(JUDGING_SEED)
    for calibration, found in found_on.items():
        histograms = [score_histogram(*pair, BINS) for pair in zip(found.maps, found.masks, strict=True)]
        of_pairs = torch.stack(histograms).unflatten(0, (2, -1)).sum(0)  # each of a normal image and its forged copy
        for number in NUMBERS:
            lots = [torch.randint(len(of_pairs), (number,), generator=generator) for _ in range(LOTS)]
            places = [iou_curve_compute(of_pairs[lot].sum(0))[0].argmax() for lot in lots]
            shares = iou[torch.stack(places)] / iou.max()
            figures = {"share": round(shares.mean().item(), 4), "least of lots": round(shares.min().item(), 4)}
            yield {"of": "numbers", "calibration": calibration, "forged images": number, **figures}


def several_times(image: Tensor, number: int) -> Tensor:
    """Repeat images until there are at least that many."""
    return image.repeat(math.ceil(number / len(image)), 1, 1, 1)


def forge(model: AnoSeg, image: Tensor, changes: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Forge anomalies as in the model's training, or only changed patches, or changed patches and noise.

    There are as many on each image as in AnoSeg's own calibration. Return images and masks.
    """
    augmenter: Any = copy.deepcopy(model.augmenter)
    if changes and isinstance(augmenter, OneOf) and not changes.get("with_noise"):
        augmenter = augmenter.kinds[0]
    kinds: Any = augmenter.kinds if isinstance(augmenter, OneOf) else [augmenter]
    for kind in kinds:
        kind.saliency = changes.get("saliency", kind.saliency)
        kind.flags = {name: changes.get(name, value) for name, value in kind.flags.items()}
    generator = torch.Generator().manual_seed(JUDGING_SEED)
    forged, mask = augmenter.forge(several_times(image, FORGED_IMAGES), generator=generator)
    return forged, mask


@torch.no_grad()
def predict(model: AnoSeg, image: Tensor, mask: Tensor) -> Predicted:
    """Predict maps and image scores, as the network gives them."""
    predictions: list[Any] = [model.model(chunk) for chunk in image.split(16)]
    maps = torch.cat([prediction.anomaly_map for prediction in predictions])
    image_scores = torch.cat([prediction.pred_score for prediction in predictions])
    masks = mask.view_as(maps).bool()
    return Predicted(maps, masks, image_scores, masks.flatten(1).any(1))


def summarise(rows: list[Row]) -> dict[str, pd.DataFrame]:
    """Tabulate what was judged on drawn defects, and on the test images of each set: pixels, images, numbers."""
    table = with_sets(rows)
    of = dict(iter(table.groupby("of")))
    pixels = with_distances(summary(of["pixels"], ["share"]), of["pixels"], "share")
    images = summary(of["images"], ["balanced accuracy", "found", "false alarms"])
    images = with_distances(images, of["images"], "balanced accuracy")
    shipped = of["numbers"][of["numbers"]["calibration"].isin((SHIPPED, TRAINING))]
    names = shipped["calibration"] + ", " + shipped["forged images"].astype(int).astype(str) + " forged images"
    numbers = summary(shipped.assign(calibration=names), ["share", "least of lots"])
    by_training = of["pixels"][of["pixels"]["calibration"] == TRAINING]
    best = by_training.pivot_table(index="training", columns="judged on", values="best IoU", sort=False)
    calls = of["images"][of["images"]["judged on"] == TEST]
    calls = calls.pivot_table(index="calibration", columns="set", values=["found", "false alarms"], sort=False)
    calls.columns = [", ".join(column) for column in calls.columns]
    tables = {"pixels": pixels, "images": images, "numbers": numbers, "best IoU": best, "calls on test images": calls}
    return {name: table for name, table in tables.items() if len(table)}


def as_json(tables: dict[str, pd.DataFrame]) -> str:
    """Format tables as JSON with a line a row."""
    parts = []
    for name, table in tables.items():
        content = table.round(4).reset_index()
        rows = ",\n  ".join(content.apply(lambda row: row.to_json(orient="values"), axis=1))
        parts.append(f'"{name}": {{"columns": {json.dumps([*content.columns])}, "data": [\n  {rows}]}}')
    return "{" + ",\n ".join(parts) + "}\n"


def with_distances(means: pd.DataFrame, table: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Insert by how much each calibration is behind the best: the mean over trainings and half of its interval."""
    drawn = table[table["judged on"] == DRAWN]
    by_training = drawn.pivot_table(index="calibration", columns=["configuration", "training"], values=figure)
    behind = by_training.loc[means[figure].idxmax()] - by_training
    means.insert(1, "behind", behind.mean(axis=1))
    means.insert(2, "95 %", half_width(behind.sem(axis=1), behind.count(axis=1)))
    return means


def summary(table: pd.DataFrame, figures: list[str]) -> pd.DataFrame:
    """Average figures over drawn defects, and the first figure by set, by strength and on test images.

    *least*: each set of a configuration averaged over its seeds, then the minimum.
    """
    first, judged_on = figures[0], table["judged on"]
    drawn = table[judged_on == DRAWN]
    by_calibration = drawn.groupby(["calibration", "configuration", "set"], sort=False)[figures].mean()
    means = by_calibration.groupby("calibration", sort=False).mean()
    means.insert(1, "least", by_calibration.groupby("calibration")[first].min())
    each = drawn.pivot_table(index="calibration", columns="set", values=first)
    by_strength = table[~judged_on.isin([DRAWN, TEST])]
    strengths = by_strength.pivot_table(index="calibration", columns="judged on", values=first, sort=False)
    test = table[judged_on == TEST].pivot_table(index="calibration", columns=["configuration", "set"], values=first)
    test.columns = [f"test: {', '.join(column)}" for column in test.columns]
    return means.join(each).join(strengths).join(test)


if __name__ == "__main__":
    main()
