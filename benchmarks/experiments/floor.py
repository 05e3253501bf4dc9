"""Whether the distance from SGSF's memory, added to the map, finds what the network has not learned.

Finished jobs of `sgsf_laptop_pretrained` predict held-out good pictures, with drawn and with forged defects that the
training did not forge, and test pictures. The logits of the map and the distances from the memory at each scale are
put in standard deviations of the held-out good pictures, and added. A sum is chosen by `choice`, the mean of `wide` and
`forged`, see experts.md; real defects stand beside, for the record. Page: floor.md.

Run this where the board ran. Without jobs, a tiny network shows that the script works.

    python -m benchmarks.experiments.floor runs/as_shipped{,_tile}/jobs/SGSF-* --csv benchmarks/results/floor.csv
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional as F

from anomalib_anoseg.data import DemoTextures
from benchmarks.common import BARE, QUIET, Row, begin, make_parser, write_json
from benchmarks.experiments.experts import PRESET, UNTAUGHT, Pictures, gather, judge_maps, scores_of
from benchmarks.experiments.image_scores import auroc, see
from benchmarks.experiments.judging import as_tested
from benchmarks.experiments.kinds import draw_each, read_tested, thin
from benchmarks.experiments.trainings import of_preset, trainings, with_sets

HELD_OUT, TESTED = 12, 250  # pictures of a set, at most
SCALES = (4, 8, 16)  # of which pixels a side make one of the distance's
# What is added to the map's logits: shares of the distances at these scales. Fixed before the first look.
FLOORS = {
    "map (shipped)": (0, 0, 0),
    "+ distance at 1/4": (1, 0, 0),
    "+ distance at 1/8": (0, 1, 0),
    "+ distance at 1/16": (0, 0, 1),
    "+ mean distance": (1 / 3, 1 / 3, 1 / 3),
    "+ half of the mean distance": (1 / 6, 1 / 6, 1 / 6),
}
LARGER = "larger of map and mean distance"
FIGURES = ("wide", "sharp", "forged", "choice", "real", "pixel, real", "image, real")  # the last two are AUROC


def main() -> None:
    """Judge each sum on every training, then report."""
    options = parse_options()
    begin(options)
    if options.report:
        print(report(pd.read_csv(options.report)))
        return
    found = trainings(options.jobs) if options.jobs else demonstration(options.weights)
    rows = [{"training": names["training"], **row} for names, model, data in found for row in judge_all(model, data)]
    write_json(options, rows=rows)
    table = with_sets(rows)
    if options.csv:
        table.round(3).to_csv(options.csv, index=False, lineterminator="\n")
    print(report(table))


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "weights", "threads")
    parser.add_argument("jobs", type=Path, nargs="*", help="job folders of a board with SGSF guided by patches")
    parser.add_argument("--csv", type=Path, metavar="PATH", help="write each training and sum as a row")
    parser.add_argument("--report", type=Path, metavar="CSV", help="only print the table of a file that --csv wrote")
    return parser.parse_args()


def demonstration(weights: Path | None) -> Iterator[tuple[dict[str, str], Any, Any]]:
    """Train for a step."""
    model = of_preset(PRESET, weights, {"image_size": (64, 64)}, **BARE)
    data = DemoTextures("brick", image_size=64, num_train=12, num_test_good=2, num_test_per_defect=1)
    Trainer(max_steps=1, limit_val_batches=0, **QUIET).fit(model, datamodule=data)
    yield {"training": "demonstration, seed 0"}, model.eval(), data


def judge_all(model: Any, data: Any) -> Iterator[Row]:  # noqa: ANN401
    """Judge each sum of a training."""
    data.setup()
    pictures = judging_pictures(model, data)
    masks = {kind: mask for kind, (_, mask) in pictures.items()}
    seen = {kind: standardisable(model, kind, images) for kind, (images, _) in pictures.items()}
    good = seen["good"]
    standard = {
        kind: {name: (value - good[name].mean()) / good[name].std() for name, value in parts.items()}
        for kind, parts in seen.items()
    }
    for name, shares in FLOORS.items():
        sums = {kind: parts["logits"] + distance(parts, shares) for kind, parts in standard.items()}
        yield {"floor": name} | judge(sums, masks)
    mean = FLOORS["+ mean distance"]
    larger = {kind: parts["logits"].maximum(distance(parts, mean)) for kind, parts in standard.items()}
    yield {"floor": LARGER} | judge(larger, masks)


def judging_pictures(model: Any, data: Any) -> Pictures:  # noqa: ANN401
    """Make the pictures that judge, from those that this training held out, and read test pictures."""
    held_out = thin(data.val_data, HELD_OUT)
    good = as_tested(model, [held_out[index] for index in range(len(held_out))])
    return gather(good, draw_each(good), UNTAUGHT, read_tested(data, TESTED, good.shape[-2:]))


def standardisable(model: Any, kind: str, images: Tensor) -> dict[str, Tensor]:  # noqa: ANN401
    """Predict logits and distances of one size, ``(N, 1, H, W)`` each."""
    parts = {name.partition("/")[2]: torch.from_numpy(value)[:, None] for name, value in see(model, kind, images)}
    return {name: F.interpolate(part, images.shape[-2:], mode="bilinear") for name, part in parts.items()}


def distance(parts: Mapping[str, Tensor], shares: Sequence[float]) -> Tensor:
    """Add shares of the distances at all scales."""
    named = zip(SCALES, shares, strict=True)
    return torch.stack([share * parts[f"distance {scale}"] for scale, share in named]).sum(0)


def judge(sums: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Row:
    """Measure pixel AP of the judges, and pixel AP and AUROC and image AUROC of real defects."""
    low, high = torch.cat([values.flatten() for values in sums.values()]).aminmax()
    maps = {kind: (values - low) / (high - low) for kind, values in sums.items()}
    is_defect = masks["real"].bool()
    row = judge_maps(maps, scores_of(maps), masks)
    row["pixel, real"] = auroc(maps["real"][~is_defect], maps["real"][is_defect])
    return {figure: row[figure] for figure in FIGURES}


def report(table: pd.DataFrame) -> str:
    """Tabulate each sum: means over trainings, the gain in choice with its standard error, and real AP on each set."""
    shipped = table[table["floor"] == next(iter(FLOORS))].set_index("training")
    gains = {f"gain in {name}": table[name] - table["training"].map(shipped[name]) for name in ("choice", "real")}
    table = table.assign(**gains)
    by_floor = table.groupby("floor", sort=False)
    means = by_floor[list(FIGURES)].mean()
    for name in gains:
        means[name], means[f"{name}, s.e."] = by_floor[name].mean(), by_floor[name].sem()
    lowest = table.groupby(["floor", "set"])["gain in choice"].mean().groupby("floor").min()
    each = table.pivot_table(index="floor", columns="set", values="real").add_prefix("real, ")
    return means.join(lowest.rename("lowest gain of a set")).join(each).round(3).to_markdown()


if __name__ == "__main__":
    main()
