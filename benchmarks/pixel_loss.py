"""How the form of AnoSeg's pixel-wise loss decides what it learns.

Trains AnoSeg with each form of the loss, and as `configs/laptop.yaml` does, on the same images in the same order, and
judges it while it trains on held-out *normal* images with synthetic anomalies of two kinds: `forged`, by the training's
own augmentation from another seed, and `drawn`, by the demonstration data's code, which shares nothing with it. No test
image is touched. Each time three networks are judged: with the `latest` weights, with the latest weights but the
normalisation statistics of the validation `batch`, and with the `averaged` weights; the second tells whether running
statistics lag behind.

    python benchmarks/pixel_loss.py --json curves.json --plot curves.png
    python benchmarks/pixel_loss.py --root DATA --category CATEGORY --json curves.json
    python benchmarks/pixel_loss.py --variant '{"small patches": {"patch_area": [0.005, 0.1]}}'
    python benchmarks/pixel_loss.py --laptop --variant '{"coordinates": {"coordinates": true}, "none": {}}'
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import yaml
from anomalib.data import MVTecAD
from anomalib.data.datamodules.base import AnomalibDataModule
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_jaccard_index,
    binary_precision_recall_curve,
)

from anomalib_anoseg import AnoSeg, __version__
from anomalib_anoseg.data import DemoTextures, defects

FORMS: dict[str, dict[str, Any]] = {
    "l1 (as printed)": {"losses": {"segmentation": "l1"}},
    "balanced l1": {"losses": {"segmentation": "balanced_l1"}},
    "cross-entropy": {"losses": {"segmentation": "cross_entropy"}},
    "balanced cross-entropy": {"losses": {"segmentation": "balanced_cross_entropy"}},
}
# Of a trainer's habits those that no measurement needs.
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
LAPTOP = Path(__file__).parents[1] / "configs" / "laptop.yaml"


def main() -> None:
    """Train every variant and save the curves."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    laptop = yaml.safe_load(LAPTOP.read_text())["model"]["init_args"]
    variants = json.loads(options.variant) if options.variant else FORMS | {"as configs/laptop.yaml": laptop}
    if options.laptop:
        variants = {name: laptop | changes for name, changes in variants.items()}
    curves = {name: train(name, arguments, options) for name, arguments in variants.items()}
    report = {
        "command": {key: str(value) for key, value in vars(options).items()},
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "anomalib_anoseg": __version__,
        "curves": curves,
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    if options.plot:
        plot(curves, options.plot)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, help="folder of data in MVTec AD's layout; the demonstration if omitted")
    parser.add_argument("--category", default="brick")
    parser.add_argument("--variant", help="JSON: name -> arguments of AnoSeg, in place of the forms of the loss")
    parser.add_argument("--laptop", action="store_true", help="variants change what configs/laptop.yaml says")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=40, help="steps between judgements")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="32-true", help="of Lightning, such as bf16-mixed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


def train(name: str, arguments: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train one variant and return its judgements."""
    settings = {
        "image_size": (options.size, options.size),
        "network": {"width": options.width},
        "optimizer": {"lr": options.lr},
        "seed": options.seed,
    }
    model = AnoSeg(**(settings | arguments), post_processor=False, evaluator=False, visualizer=False)
    data = datamodule(options.root, options.category, options.batch)
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


def datamodule(root: Path | None, category: Any, batch: int) -> AnomalibDataModule:  # noqa: ANN401
    """Make the data module, a fifth of whose normal images are held out."""
    split: dict[str, Any] = {"val_split_mode": "from_train", "val_split_ratio": 0.2, "seed": 0, "num_workers": 0}
    sizes: dict[str, Any] = {"train_batch_size": batch, "eval_batch_size": batch}
    if root is None:
        return DemoTextures(category=category, **sizes)
    return MVTecAD(root, category, **sizes, **split)


def validation_sets(data: Any, model: AnoSeg) -> dict[str, tuple[Tensor, Tensor]]:  # noqa: ANN401
    """Make images and masks of each kind from the held-out normal images: half of them normal."""
    resize: Any = model.pre_processor
    normal = torch.stack([resize(data.val_data[index].image) for index in range(min(24, len(data.val_data)))])
    forged, forged_mask = model.augmenter.forge(normal, generator=torch.Generator().manual_seed(10_000))
    rng = np.random.default_rng(10_000)
    draw = list(defects.DEFECTS.values())
    pairs = []
    for index, image in enumerate(normal):
        surface = image.permute(1, 2, 0).double().numpy()
        pairs.append(defects.mark_changes(surface, draw[index % len(draw)](surface, rng, 1.0)))
    drawn, drawn_mask = as_tensors(pairs)
    clean = torch.zeros_like(forged_mask)
    return {
        "forged": (torch.cat((normal, forged)), torch.cat((clean, forged_mask))),
        "drawn": (torch.cat((normal, drawn)), torch.cat((clean, drawn_mask))),
    }


def as_tensors(pairs: list[tuple[Any, Any]]) -> tuple[Tensor, Tensor]:
    """Stack pictures ``(H, W, 3)`` and their masks ``(H, W)``: ``(N, 3, H, W)`` and ``(N, 1, H, W)``, float32."""
    images = torch.stack([torch.from_numpy(picture).permute(2, 0, 1).float() for picture, _ in pairs])
    return images, torch.stack([torch.from_numpy(mask)[None].float() for _, mask in pairs])


class Judge(Callback):
    """Judges the model every few steps."""

    def __init__(self, name: str, sets: dict[str, tuple[Tensor, Tensor]], every: int) -> None:
        self.name, self.sets, self.every = name, sets, every
        self.judgements: list[dict[str, Any]] = []
        self.seconds = 0.0

    def on_train_batch_start(self, *args: Any) -> None:  # noqa: ANN401
        """Start the clock, which counts processor time: others may be at work."""
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
    model.eval()
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


def scores(maps: Tensor, masks: Tensor) -> dict[str, float]:
    """Pixel-wise AUROC, average precision, and IoU at the best threshold."""
    prediction, target = maps.flatten(), masks.flatten().int()
    precision, recall, thresholds = binary_precision_recall_curve(prediction, target)
    iou = 1 / (1 / precision.clamp(min=1e-9) + 1 / recall.clamp(min=1e-9) - 1)
    return {
        "auroc": round(binary_auroc(prediction, target).item(), 4),
        "ap": round(binary_average_precision(prediction, target).item(), 4),
        "best_iou": round(iou.max().item(), 4),
        "best_threshold": thresholds[iou[:-1].argmax()].item(),
        "mean_map": round(prediction.mean().item(), 4),
    }


def iou_at(maps: Tensor, masks: Tensor, threshold: float) -> float:
    """Pixel-wise IoU at a threshold."""
    return round(binary_jaccard_index((maps >= threshold).int(), masks.int()).item(), 4)


def plot(curves: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw best IoU against the step, for both kinds of anomaly, latest weights thin and averaged ones thick."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    for axis, kind in zip(axes, ("forged", "drawn"), strict=True):
        for index, (name, judgements) in enumerate(curves.items()):
            steps = [judgement["step"] for judgement in judgements]
            for network, style in (("latest", {"lw": 0.8, "ls": ":"}), ("averaged", {"lw": 2.0, "label": name})):
                values = [judgement[f"{kind}/{network}"]["best_iou"] for judgement in judgements]
                axis.plot(steps, values, color=f"C{index}", **style)
        axis.set(title=f"{kind} anomalies on held-out images", xlabel="step", ylim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("best IoU (dotted: latest weights)")
    axes[1].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
