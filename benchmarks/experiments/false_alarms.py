"""Count false alarms on good test pictures at the operating points that held-out good pictures promise.

A preset learns from a part of the good training pictures; the others are held out and give the operating points. Then
good test pictures are predicted. At each point the report counts those above the image threshold and those with any
marked pixel, and says whether their share lies in the interval that was stated. *Chance* is the probability of as many
image alarms or more if test pictures were like those held out: a beta-binomial distribution gives it exactly. For the
record: nothing may be chosen by it. Page: false_alarms.md.

With `--shift` nothing is trained: test pictures, good ones and all, are compared with those held out, as `inspect`
does.

    python -m benchmarks.experiments.false_alarms --set datasets/mvtec/screw ... --weights FILE --markdown
    python -m benchmarks.experiments.false_alarms --set datasets/mvtec/screw ... --shift --markdown
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from scipy.stats import betabinom

from anomalib_anoseg.common.appearance import PROPERTIES, grey_of, summarize
from anomalib_anoseg.common.appearance import measure as look
from anomalib_anoseg.common.picture_files import read_picture
from anomalib_anoseg.deploy.description import describe_appearance
from anomalib_anoseg.deploy.inspection.shift import explain_shift
from anomalib_anoseg.training.operating_points import RatedThresholds, count_alarms
from benchmarks.common import QUIET, Row, begin, format_table, make_parser, preset, write_json
from benchmarks.experiments.judging import make_data
from benchmarks.experiments.trainings import of_preset

PREDICTED = ("pred_score", "anomaly_map")  # fields of anomalib's batches


def main() -> None:
    """Train a model on each set and count, or compare pictures alone."""
    options = parse_options()
    begin(options)
    examine = compare if options.shift else measure
    rows = [row for folder in options.set or [None] for row in examine(folder, options)]
    write_json(options, rows=rows)
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    print(format_table(lines, markdown=options.markdown))


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "seed", "set", "weights", "threads", "markdown")
    parser.add_argument("--preset", default="sgsf_laptop_pretrained")
    parser.add_argument("--steps", type=int, default=150, help="of each training (default: 150)")
    parser.add_argument("--held_out", type=float, default=0.5, help="share of the good pictures (default: 0.5)")
    parser.add_argument("--shift", action="store_true", help="compare pictures as inspect does, without a training")
    return parser.parse_args()


def compare(folder: Path | None, options: argparse.Namespace) -> list[Row]:
    """Compare the test pictures of one set with good ones that are held out."""
    data: Any = make_data(folder, seed=options.seed, held_out=options.held_out)
    data.prepare_data()
    data.setup()
    size = tuple(preset(options.preset)["image_size"])
    held_out: Any = describe_appearance(summarize(look_at_files(data.val_data.samples.image_path, size), size))
    samples = data.test_data.samples
    sets = {"good": samples[samples.label_index == 0], "good and defective": samples}
    rows = []
    for name, chosen in sets.items():
        looks = look_at_files(chosen.image_path, size)
        row: Row = {"set": folder.name if folder else "demonstration", "held out": held_out.good_images}
        row |= {"test pictures": name, "number": len(looks)}
        for column, what in enumerate(PROPERTIES):
            low, median, high = getattr(held_out, what)
            values = looks[:, column]
            beyond = max((values < low).sum(), (values > high).sum())
            row[f"{what}: held out, test"] = f"{median:.3g}, {float(np.median(values)):.3g}"
            row[f"{what}: beyond"] = f"{beyond / len(values):.2f}"
        rows.append(row | {"warning": explain_shift(looks, held_out).partition(" than ")[0] or "none"})
    return rows


def look_at_files(paths: Iterable[str], size: tuple[int, int]) -> NDArray[np.float64]:
    """Measure how files look at the size of the networks: ``(N, 3)``."""
    return np.concatenate([look(grey_of(read_picture(path), size)[None]) for path in paths])


def measure(folder: Path | None, options: argparse.Namespace) -> list[Row]:
    """Train on one set, and count at each of its operating points."""
    model = of_preset(options.preset, options.weights, visualizer=False, evaluator=False, seed=options.seed)
    data: Any = make_data(folder, seed=options.seed, held_out=options.held_out)
    length = {"max_steps": options.steps, "max_epochs": -1, "num_sanity_val_steps": 0, "check_val_every_n_epoch": 10**6}
    Trainer(**length, **QUIET).fit(model, datamodule=data)  # and one validation at its end
    labels = data.test_data.samples.label_index.tolist()
    data.test_data.subsample([index for index, label in enumerate(labels) if label == 0], inplace=True)
    batches: Any = Trainer(**QUIET).predict(model, data.test_dataloader())
    score, maps = (torch.cat([getattr(batch, name) for batch in batches]) for name in PREDICTED)
    name = folder.name if folder else "demonstration"
    points = model.post_processor.operating_points
    return [{"set": name} | count(point, score, maps.flatten(1).amax(1)) for point in points]


def count(point: RatedThresholds, score: torch.Tensor, peaks: torch.Tensor) -> Row:
    """Count good test pictures, of which there are scores and highest pixels ``(N,)``, above both thresholds."""
    above, marked = int((score > point.image_score).sum()), int((peaks > point.pixel_score).sum())
    allowed = count_alarms(point.false_alarm_rate, point.good_images)
    chance = betabinom.sf(above - 1, len(score), allowed + 1, point.good_images - allowed)
    return {
        "rate": point.false_alarm_rate,
        "held out": point.good_images,
        "interval": "{:.3f} to {:.3f}".format(*point.interval),
        "forged found": round(point.found, 3),
        "test pictures": len(score),
        "alarms": above,
        "in it": place(above / len(score), *point.interval),
        "chance": round(float(chance), 4),
        "any pixel marked": marked,
        "in it, too": place(marked / len(score), *point.interval),
    }


def place(share: float, low: float, high: float) -> str:
    """Say whether a share lies in an interval."""
    return "below" if share < low else "above" if share > high else "yes"


if __name__ == "__main__":
    main()
