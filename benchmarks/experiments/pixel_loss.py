"""Compare forms of AnoSeg's pixel-wise loss, or any other settings, by how good its map becomes.

AnoSeg is trained with each form of the loss, and as in `configs/laptop.yaml`, on the same images in the same order.
During training it is judged by anomalies on held-out *normal* images: `forged` by the training's own augmentation with
another seed, and `drawn` by the demonstration data's code, which shares nothing with it. No test image is used.
Three networks are judged each time: with the `latest` weights, with these and the normalisation statistics of the
validation `batch`, and with the `averaged` weights. The second shows whether running statistics lag behind. Pages:
pixel_loss.md, coordinates.md.

    python -m benchmarks.experiments.pixel_loss --json curves.json
    python -m benchmarks.experiments.pixel_loss --root DATA --category CATEGORY --json curves.json
    python -m benchmarks.experiments.pixel_loss --variant '{"small patches": {"patches": {"area": [0.005, 0.1]}}}'
    python -m benchmarks.experiments.pixel_loss --laptop --variant '{"coordinates": {"coordinates": true}, "none": {}}'
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.common.presets import merge
from anomalib_anoseg.data import defects
from benchmarks.common import BARE, QUIET, begin, make_parser, preset, write_json
from benchmarks.experiments.judging import (
    JUDGING_SEED,
    after_normal,
    as_surfaces,
    as_tensors,
    held_out,
    make_data,
    scores,
)

FORMS: dict[str, dict[str, Any]] = {
    "l1 (as printed)": {"losses": {"segmentation": "l1"}},
    "balanced l1": {"losses": {"segmentation": "balanced_l1"}},
    "cross-entropy": {"losses": {"segmentation": "cross_entropy"}},
    "balanced cross-entropy": {"losses": {"segmentation": "balanced_cross_entropy"}},
}


def main() -> None:
    """Train every variant and save the curves."""
    options = parse_options()
    begin(options)
    laptop = preset("laptop")
    variants = json.loads(options.variant) if options.variant else FORMS | {"as configs/laptop.yaml": laptop}
    if options.laptop:
        variants = {name: merge(laptop, changes) for name, changes in variants.items()}
    curves = {name: train(name, arguments, options) for name, arguments in variants.items()}
    write_json(options, curves=curves)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "seed", "threads")
    parser.add_argument("--root", type=Path, help="folder of data in MVTec AD's layout; the demonstration if omitted")
    parser.add_argument("--category", help="a set in this folder")
    parser.add_argument("--variant", help="JSON: name -> arguments of AnoSeg, in place of the forms of the loss")
    parser.add_argument("--laptop", action="store_true", help="variants change the settings of configs/laptop.yaml")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=40, help="steps between judgements")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--precision", default="32-true", help="precision of Lightning, such as bf16-mixed")
    return parser.parse_args()


def train(name: str, arguments: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train one variant and return its judgements."""
    settings = {
        "image_size": (options.size, options.size),
        "network": {"width": options.width},
        "optimizer": {"lr": options.lr},
        "seed": options.seed,
    }
    model = AnoSeg(**merge(settings, arguments), **BARE)
    data = make_data(options.root / options.category if options.root else None, options.batch)
    data.prepare_data()
    data.setup()
    judge = Judge(name, validation_sets(data, model), options.every)
    optimizers = 2 if model.model.discriminator is not None else 1
    trainer = Trainer(
        precision=options.precision,
        max_steps=options.steps * optimizers,
        limit_val_batches=0,
        callbacks=[judge],
        **QUIET,
    )
    trainer.fit(model, datamodule=data)
    return judge.judgements


def validation_sets(data: Any, model: AnoSeg) -> dict[str, tuple[Tensor, Tensor]]:  # noqa: ANN401
    """Make images and masks of each kind from the held-out normal images: half of them normal."""
    normal = held_out(data, model)
    forged, forged_mask = model.augmenter.forge(normal, generator=torch.Generator().manual_seed(JUDGING_SEED))
    rng = np.random.default_rng(JUDGING_SEED)
    draw = list(defects.DEFECTS.values())
    pairs = [
        defects.mark_changes(surface, draw[index % len(draw)](surface, rng, 1.0))
        for index, surface in enumerate(as_surfaces(normal))
    ]
    return {
        "forged": after_normal(normal, (forged, forged_mask)),
        "drawn": after_normal(normal, as_tensors(pairs)),
    }


class Judge(Callback):
    """Judges the model every few steps."""

    def __init__(self, name: str, sets: dict[str, tuple[Tensor, Tensor]], every: int) -> None:
        self.name, self.sets, self.every = name, sets, every
        self.judgements: list[dict[str, Any]] = []
        self.seconds = 0.0

    def on_train_batch_start(self, *args: Any) -> None:  # noqa: ANN401
        """Start the clock, which counts processor time, because the machine may be busy."""
        del args
        self.start = time.process_time()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ANN401
        """Stop the clock, and judge if it is time."""
        del args
        self.seconds += time.process_time() - self.start
        step = trainer.fit_loop.total_batch_idx + 1
        if step % self.every:
            return
        judgement: dict[str, Any] = {"step": step, "seconds": round(self.seconds, 1)}
        judgement["loss"] = {key: value.item() for key, value in trainer.callback_metrics.items()}
        for kind, (images, masks) in self.sets.items():
            for network in ("latest", "batch", "averaged"):
                judgement[f"{kind}/{network}"] = scores(predict(pl_module.model, images, network), masks)
        pl_module.train()
        self.judgements.append(judgement)
        shown = {key: value["best_iou"] for key, value in judgement.items() if "/" in key}
        print(self.name, step, f"{self.seconds:.0f} s", shown, flush=True)


@torch.no_grad()
def predict(model: Any, images: Tensor, network: str) -> Tensor:  # noqa: ANN401
    """Predict maps with one of the three networks."""
    averaged, model.averaged = model.averaged, model.averaged if network == "averaged" else None
    model.prepare_for_evaluation()
    saved = {key: value.clone() for key, value in model.segmenter.named_buffers()}
    if network == "batch":
        for module in model.segmenter.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()
    maps = torch.cat([model(chunk).anomaly_map for chunk in images.split(16)])
    for key, value in model.segmenter.named_buffers():
        value.copy_(saved[key])
    model.averaged = averaged
    return maps


if __name__ == "__main__":
    main()
