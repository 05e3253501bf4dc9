"""Count what trained models find and miss on test images at their own thresholds.

Each training is calibrated as its preset with ImageNet weights does it, without test images. The report says which
share of the best IoU its pixel threshold reaches. For good images and each kind of defect it counts how many are called
anomalous, on how many defects no pixel is marked or the mask hardly overlaps the ground truth, and on how many good
images any pixel is marked. For the record: nothing may be chosen by it. Page: own_thresholds.md.

Trainings are job folders of a board. Run this where the board ran, because their data may have relative paths. Without
any, a network that saw a few pictures of the demonstration data shows that the script works.

    python -m benchmarks.experiments.own_thresholds runs/as_shipped{,_tile}/jobs/{AnoSeg,SGSF}-* \
        --json own_thresholds.json --markdown
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torchmetrics.functional.classification import binary_jaccard_index

from anomalib_anoseg import SGSF, AnoSeg
from benchmarks.common import BARE, QUIET, Row, begin, make_parser, preset, write_json
from benchmarks.experiments.judging import scores
from benchmarks.experiments.trainings import demonstration, trainings, with_sets

PRESETS: dict[type, str] = {AnoSeg: "laptop_pretrained", SGSF: "sgsf_laptop_pretrained"}
GOOD = "good"
POOR_IOU = 0.1
PREDICTED = ("anomaly_map", "gt_mask", "pred_mask", "pred_label")  # fields of anomalib's batches


class Decisions(NamedTuple):
    """A calibrated model's predictions for the test images, and the ground truth."""

    kinds: list[str]  # of defects, or "good"
    maps: Tensor  # (N, H, W)
    masks: Tensor  # (N, H, W), bool
    marked: Tensor  # (N, H, W), bool
    called_anomalous: Tensor  # (N,), bool


def main() -> None:
    """Count for every training, then report."""
    options = parse_options()
    begin(options)
    found = trainings(options.jobs) if options.jobs else demonstration()
    rows = [names | row for names, model, data in found for row in count(predict(as_shipped(model), data))]
    write_json(options, rows=rows)
    if options.markdown:
        print(report(rows))


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "markdown")
    parser.add_argument("jobs", type=Path, nargs="*", help="job folders of a board with AnoSeg or SGSF")
    return parser.parse_args()


def as_shipped(trained: Any) -> Any:  # noqa: ANN401
    """Give a training's weights to a model that calibrates itself as its preset does."""
    kind = type(trained)
    calibration = {"calibration": preset(PRESETS[kind]).get("calibration", {})}
    model = kind(**(dict(trained.hparams) | calibration | BARE | {"post_processor": True}))
    model.model.load_state_dict(trained.model.state_dict())
    return model


def predict(model: Any, data: Any) -> Decisions:  # noqa: ANN401
    """Calibrate on held-out images and predict the test images."""
    trainer = Trainer(**QUIET)
    trainer.validate(model, datamodule=data, verbose=False)
    batches: Any = trainer.predict(model, data.test_dataloader())
    maps, masks, marked, called = (torch.cat([getattr(batch, name) for batch in batches]) for name in PREDICTED)
    kinds = [Path(path).parent.name for batch in batches for path in batch.image_path]
    return Decisions(kinds, maps, masks, marked, called)


def count(predicted: Decisions) -> list[Row]:
    """Judge the pixel threshold by all images, and count on those of each kind."""
    best = scores(predicted.maps, predicted.masks)["best_iou"]
    iou = binary_jaccard_index(predicted.marked, predicted.masks).item()
    overall = {"kind": "all", "images": len(predicted.kinds), "IoU": round(iou, 4), "best IoU": best}
    rows: list[Row] = [overall | {"share": round(iou / best, 4)}]
    for kind in sorted(set(predicted.kinds)):
        chosen = torch.tensor([other == kind for other in predicted.kinds])
        marked, masks = predicted.marked[chosen].flatten(1), predicted.masks[chosen].flatten(1)
        row = {"kind": kind, "images": len(marked), "called anomalous": predicted.called_anomalous[chosen].sum().item()}
        rows.append(row | (marks_on_good(marked) if kind == GOOD else marks_on_defects(marked, masks)))
    return rows


def marks_on_good(marked: Tensor) -> Row:
    """Count good images with marks: bool ``(N, pixels)``."""
    return {"any pixel marked": marked.any(1).sum().item()}


def marks_on_defects(marked: Tensor, masks: Tensor) -> Row:
    """Count images of defects that are hardly marked: bool ``(N, pixels)``, both."""
    hits, either = (marked & masks).sum(1), (marked | masks).sum(1)
    return {
        "no defect pixel marked": (hits == 0).sum().item(),
        f"IoU below {POOR_IOU}": (hits < POOR_IOU * either).sum().item(),
    }


def report(rows: list[Row]) -> str:
    """Tabulate what the pixel threshold leaves of each configuration on each set, with its range, and mean counts."""
    table = with_sets(rows)
    is_overall = table["kind"] == "all"
    shares = table[is_overall].groupby(["configuration", "set"], sort=False)
    left = shares[["IoU", "best IoU", "share"]].mean().join(shares["share"].agg(["min", "max"]).add_prefix("share, "))
    counts = table[~is_overall].groupby(["configuration", "set", "kind"], sort=False).mean(numeric_only=True)
    counts = counts.drop(columns=["IoU", "best IoU", "share"])
    return "\n\n".join([left.round(3).to_markdown(), counts.round(1).reset_index().to_markdown(index=False)])


if __name__ == "__main__":
    main()
