"""Compare image scores of the presets with ImageNet weights, by synthetic anomalies only.

Each preset is trained on the normal training images of each set, for the same processor time. The logits of its map are
kept, for held-out images, for anomalies on them and for test images, and so are the distances from SGSF's memory. Then
scores are compared by image AUROC, in seconds. Anomalies are of five kinds: as the two presets forge them, faint ones,
wide and soft ones, which no preset forges, and drawn ones on the object. Test images are judged for the record: nothing
may be chosen by them.

    python -m benchmarks.experiments.image_scores runs/image_scores --weights datasets/tf_efficientnet_lite0.pth \
        --set datasets/mvtec/{screw,toothbrush} datasets/magnetic_tile/tile datasets/cookie/cookie --markdown

Files in the folder are not made again. Without sets, the demonstration data show that the script works. Page:
image_score.md.
"""

import argparse
import math
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.models.image_score import average, score_map
from anomalib_anoseg.models.sgsf.patch_model import GUIDED
from anomalib_anoseg.training.budget import BudgetTimer
from anomalib_anoseg.transforms import CutPaste, SyntheticAnomaly
from benchmarks.common import BARE, QUIET, Row, begin, make_parser, write_json
from benchmarks.experiments.judging import DEMO, JUDGING_SEED, as_tested, draw, find_object, make_data
from benchmarks.experiments.study import Clock
from benchmarks.experiments.trainings import of_preset

MODELS = {"AnoSeg": "laptop_pretrained", "SGSF": "sgsf_laptop_pretrained"}  # name: preset
NORMAL = 48  # held-out images that are judged, at most
CARRIERS = 24  # of them that get anomalies, at most
FORGED = 48  # images of each forged kind, at least
TESTED = 200  # test images, evenly spaced, at most
CHUNK = 16
WIDE: dict[str, Any] = {"area": (0.05, 0.3), "opacity": (0.15, 0.5), "softness": (0.5, 1.0), "mark": "changed"}
SHARES = (0.001, 0.01, 0.03, 0.1, 1.0)
TODAY = "maximum over 11"
# Scores of SGSF among which one is chosen, fixed before the trainings.
CANDIDATES = (TODAY, f"{TODAY} + distance 16", f"{TODAY} + distance 8", "distance 16")
# Pairs of scores that are also added, each in standard deviations of good images.
SUMS = [(TODAY, "distance 16"), (TODAY, "distance 8"), ("top 1%", "distance 16"), (TODAY, "top 10%")]


def main() -> None:
    """Train what is missing, then compare."""
    options = parse_options()
    begin(options)
    options.folder.mkdir(parents=True, exist_ok=True)
    for seed, root, name in product(range(options.seeds), options.set or [None], options.models):
        file = options.folder / f"{root.name if root else DEMO},{name},{seed}.npz"
        if not file.exists():
            model, data, steps = train(name, root, seed, options)
            torch.save(model.model.state_dict(), file.with_suffix(".pt"))
            np.savez(file, steps=steps, **dict(look(model, data)))
    table = pd.DataFrame(row for file in sorted(options.folder.glob("*.npz")) for row in judge(file))
    write_json(options, rows=table.to_dict("records"))
    if options.csv:
        summary(table).to_csv(options.csv, index=False, lineterminator="\n")
    if options.candidates:
        chosen = table[table["score"].isin(CANDIDATES) & (table["model"] == "SGSF")].drop(columns="model")
        chosen.round(3).to_csv(options.candidates, index=False, lineterminator="\n")
    if options.markdown:
        print(summary(table).to_markdown(index=False))


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "set", "weights", "threads", "markdown")
    parser.add_argument("folder", type=Path, help="where trained weights and maps are kept")
    parser.add_argument("--seconds", type=float, default=25, help="processor time of every training")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--csv", type=Path, metavar="PATH", help="write the table")
    parser.add_argument("--candidates", type=Path, metavar="PATH", help="write SGSF's candidates, each training a row")
    return parser.parse_args()


def train(name: str, root: Path | None, seed: int, options: argparse.Namespace) -> tuple[Any, Any, int]:
    """Train a preset; the seed also chooses which images are held out. Return the number of steps, too."""
    model, data = of_preset(MODELS[name], options.weights, seed=seed, **BARE), make_data(root, seed=seed)
    clock = Clock()
    trainer = Trainer(
        precision="bf16-mixed",
        max_epochs=-1,
        max_steps=150 if name == "SGSF" else -1,
        limit_val_batches=0,
        callbacks=[clock, BudgetTimer(options.seconds, "cpu", clock.stopwatch)],
        **QUIET,
    )
    trainer.fit(model, datamodule=data)
    return model.eval(), data, trainer.fit_loop.total_batch_idx + 1


def look(model: Any, data: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Predict logits and distances for images of every kind."""
    normal = as_tested(model, [data.val_data[index] for index in range(min(NORMAL, len(data.val_data)))])
    for kind, images in {"good": normal, **make_anomalies(normal[:CARRIERS])}.items():
        yield from see(model, kind, images)
    number = len(data.test_data)
    chosen = np.linspace(0, number - 1, min(TESTED, number)).round().astype(int)
    items = [data.test_data[int(index)] for index in chosen]
    yield from see(model, "test", as_tested(model, items))
    yield "is_defect", np.array([bool(item.gt_label) for item in items])


def make_anomalies(normal: Tensor) -> dict[str, Tensor]:
    """Make anomalies of each kind, at most one on an image, the same for all models."""
    mixture = of_preset("laptop_pretrained", changes={"encoder.pre_trained": False, "encoder.frozen": False}, **BARE)
    faint: Any = mixture.calibration_anomalies.map
    upright = of_preset("sgsf_laptop_pretrained", changes={"guidance.kind": "none"}, **BARE)
    augmenters = {
        "patches and noise": mixture.augmenter,
        "faint": faint,
        "noise": upright.calibration_anomalies.image,
        "wide": CutPaste(**WIDE),
    }
    found = {kind: forge(normal, augmenter) for kind, augmenter in augmenters.items()}
    image, mask = draw(normal, find_object(normal))
    return {**found, "drawn": image[mask.flatten(1).any(1)]}


def forge(normal: Tensor, augmenter: SyntheticAnomaly) -> Tensor:
    """Forge until there are enough; images that stay as they are do not count."""
    kept: list[Tensor] = []
    generator = torch.Generator().manual_seed(JUDGING_SEED)
    while sum(map(len, kept)) < FORGED:
        image, mask = augmenter.forge(normal, generator=generator)
        kept.append(image[mask.flatten(1).any(1)])
    return torch.cat(kept)


@torch.no_grad()
def see(model: Any, kind: str, images: Tensor) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Predict ``(N, 3, H, W)``: logits ``(N, H, W)`` and, of SGSF, distances from the memory at each scale."""
    networks, logits, distances = model.model, [], []
    for chunk in images.split(CHUNK):
        decoder = networks.averaged.module
        if isinstance(model, AnoSeg):
            logits.append(decoder(decoder.encoder.with_coordinates(chunk))[0][:, 0])
            continue
        features = networks.guide(chunk)
        distances.append([features[scale][:, -1] for scale in GUIDED])
        decoded = decoder(features)
        logits.append(decoded[:, 1] - decoded[:, 0])
    yield f"{kind}/logits", torch.cat(logits).numpy()
    for scale, parts in zip(GUIDED, zip(*distances, strict=True), strict=False):
        yield f"{kind}/distance {2 ** (scale + 1)}", torch.cat(parts).numpy()


def score(seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Score images in every way: ``(N,)`` each, from logits and distances ``(N, h, w)``."""
    maps = seen["logits"].sigmoid()[:, None]
    found = {f"maximum over {window}": score_map(maps, window) for window in (1, 5, 11, 21, 41)}
    for share in SHARES:
        found[f"top {100 * share:g}%"] = mean_of_highest(maps, share)
        found[f"top {100 * share:g}% over 11"] = mean_of_highest(average(maps, 11), share)
    found["area above 0.5"] = (maps > 0.5).float().mean((1, 2, 3))
    found["mean logit"] = seen["logits"].mean((1, 2))
    return found | {name: part.amax((1, 2)) for name, part in seen.items() if name != "logits"}


def mean_of_highest(maps: Tensor, share: float) -> Tensor:
    """Average a share of the pixels of ``(N, 1, H, W)`` maps, those with the highest values: ``(N,)``."""
    values = maps.flatten(1)
    highest, _ = values.topk(math.ceil(share * values.shape[1]))
    return highest.mean(1)


def judge(file: Path) -> Iterator[Row]:
    """Measure the image AUROC of every score on every kind of anomalies, and on test images."""
    data_set, model, seed = file.stem.split(",")
    content = np.load(file)
    seen: dict[str, dict[str, Tensor]] = {}
    for name in content.files:
        kind, _, part = name.partition("/")
        if part:
            seen.setdefault(kind, {})[part] = torch.from_numpy(content[name])
    found = {kind: score(parts) for kind, parts in seen.items()}
    found = {kind: scores | add(scores, found["good"]) for kind, scores in found.items()}
    good, test, is_defect = found.pop("good"), found.pop("test"), torch.from_numpy(content["is_defect"])
    for name, values in good.items():
        kinds = {kind: auroc(values, scores[name]) for kind, scores in found.items()}
        on_test = auroc(test[name][~is_defect], test[name][is_defect])
        yield {"model": model, "score": name, "set": data_set, "seed": seed, **kinds, "test": on_test}


def add(scores: Mapping[str, Tensor], good: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add pairs of scores in standard deviations of good images."""
    standard = {name: (value - good[name].mean()) / good[name].std().clamp(min=1e-6) for name, value in scores.items()}
    return {f"{one} + {other}": standard[one] + standard[other] for one, other in SUMS if other in standard}


def auroc(normal: Tensor, anomalous: Tensor) -> float:
    """Measure how well a score tells anomalous images from normal ones."""
    scores, labels = torch.cat((normal, anomalous)).double(), torch.tensor([0] * len(normal) + [1] * len(anomalous))
    # torchmetrics takes the sigmoid of scores beyond [0, 1], where high ones would tie.
    low, high = scores.aminmax()
    return binary_auroc((scores - low) / (high - low).clamp(min=1e-12), labels).item()


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Average over kinds of anomalies, then over trainings; compare each score with today's, training by training."""
    kinds = [name for name in table.columns if name not in {"model", "score", "set", "seed", "test"}]
    table = table.assign(synthetic=table[kinds].mean(axis=1))
    training = ["model", "set", "seed"]
    today = table[table["score"] == TODAY].set_index(training)["synthetic"].rename("today")
    table = table.join(today, on=training)
    table["gain"] = table["synthetic"] - table["today"]
    by_score = table.groupby(["model", "score"], sort=False)
    means = by_score[["synthetic", "gain"]].mean()
    means["gain, s.e."] = by_score["gain"].sem()
    columns = ["synthetic", "test"]
    each = table.pivot_table(index=["model", "score"], columns="set", values=columns, sort=False)
    each.columns = [", ".join(names) for names in each.columns]
    means = means.join(by_score[kinds].mean()).join(each).join(by_score["test"].mean())
    return means.round(3).reset_index()


if __name__ == "__main__":
    main()
