"""Contact sheets: the best and the worst test images of a model, with truth and anomaly map side by side."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from tqdm import tqdm

from anomalib_anoseg.board.report.records import FinishedJob
from anomalib_anoseg.common.files import inside
from anomalib_anoseg.common.schema import read_table
from anomalib_anoseg.common.thumbnails import draw_map, draw_truth, read_thumbnail, to_uri

logger = logging.getLogger(__name__)

COLUMNS = ("image_path", "defect", "gt_label", "pred_score")
OPTIONAL = ("mask_path", "map_path", "iou", "picture_path", "truth_path")
NUMBERS = ("gt_label", "pred_score", "iou")


class Sheet(NamedTuple):
    """The images of one model, category and seed.

    Attributes:
        title: Model, category and seed.
        groups: Images by the reason for which they were chosen. Each has ``name``, ``defect`` and ``score``, and its
            ``pictures``: data URIs by what they show; ``None`` if it cannot be read.
    """

    title: str
    groups: dict[str, list[dict[str, Any]]]


def contact_sheets(jobs: Sequence[FinishedJob], count: int) -> list[Sheet]:
    """Make a contact sheet for each model and category, of the lowest seed that has images.

    Args:
        jobs: Finished jobs; trivial rows get no sheet.
        count: Number of images per group.
    """
    chosen: dict[tuple[str, str], FinishedJob] = {}
    for job in sorted(jobs, key=lambda job: job.seed):
        if not job.is_trivial and (job.folder / "images.csv").is_file():
            chosen.setdefault((job.label, job.category), job)
    ordered = [chosen[key] for key in dict.fromkeys((job.label, job.category) for job in jobs) if key in chosen]
    refused: list[str] = []
    sheets = [_sheet(job, count, refused) for job in tqdm(ordered, desc="Contact sheets", unit="sheet", leave=False)]
    if refused:
        logger.warning(
            "%d pictures lie outside of their run's folder and are not shown, such as %s. Boards now keep small copies "
            "of their test images: run this board again, into a new folder.",
            len(refused),
            refused[0],
        )
    return sheets


def choose(images: pd.DataFrame, count: int) -> dict[str, pd.DataFrame]:
    """Choose the images of a contact sheet: defects by IoU, good images by score.

    Without masks, defects are chosen by score as well. Ties, such as many images of IoU 0, are broken by score.

    Args:
        images: Columns ``gt_label``, ``pred_score`` and ``iou``.
        count: Number of images per group; an image of a small set is in one group only. The most extreme goes first.

    Example:
        >>> images = pd.DataFrame({"gt_label": [1, 1, 0], "pred_score": [0.9, 0.2, 0.6], "iou": [0.7, 0.1, None]})
        >>> {title: list(chosen.index) for title, chosen in choose(images, 1).items()}
        {'Best segmented defects': [0], 'Worst segmented defects': [1], 'Good images with the highest scores': [2]}
    """
    is_defect = images["gt_label"].astype(int) == 1
    by = ["iou", "pred_score"] if images.loc[is_defect, "iou"].notna().any() else ["pred_score"]
    defects = images[is_defect].sort_values(by, ascending=False, kind="stable")
    good = images[~is_defect].sort_values("pred_score", ascending=False)
    kind = "segmented" if "iou" in by else "scored"
    groups = {
        f"Best {kind} defects": defects.head(min(count, -(-len(defects) // 2))),
        f"Worst {kind} defects": defects.tail(min(count, len(defects) // 2))[::-1],
        "Good images with the highest scores": good.head(count),
    }
    return {title: chosen for title, chosen in groups.items() if len(chosen)}


def _sheet(job: FinishedJob, count: int, refused: list[str]) -> Sheet:
    images = read_table(job.folder / "images.csv", COLUMNS, OPTIONAL, NUMBERS).dropna(subset=["gt_label", "pred_score"])
    groups = {
        title: [_entry(job.folder, image, refused) for image in chosen.to_dict("records")]
        for title, chosen in choose(images, count).items()
    }
    return Sheet(f"{job.label}, {job.category}, seed {job.seed}", groups)


def _entry(folder: Path, image: dict[str, Any], refused: list[str]) -> dict[str, Any]:
    def read(mode: str, *columns: str) -> Any:  # noqa: ANN401
        """Read the first that is named; what lies outside of the run's folder may be anyone's, and is not shown."""
        named = next((image[column] for column in columns if isinstance(image[column], str)), None)
        path = inside(folder.parents[1], folder, named)
        if named and path is None:
            refused.append(named)
        return read_thumbnail(path, mode)

    iou = f"IoU {image['iou']:.2f}, " if pd.notna(image["iou"]) else ""
    pixels, values = read("RGB", "picture_path", "image_path"), read("L", "map_path")
    is_good = int(image["gt_label"]) == 0
    mask = None if is_good else read("L", "truth_path", "mask_path")
    pictures = {
        "picture": pixels,
        "truth": draw_truth(pixels, mask) if pixels is not None and (is_good or mask is not None) else None,
        "map": None if values is None else draw_map(values),
    }
    return {
        "name": Path(str(image["image_path"])).name,
        "defect": str(image["defect"]),
        "score": f"{iou}score {float(image['pred_score']):.2f}",
        "pictures": {what: None if drawn is None else to_uri(drawn) for what, drawn in pictures.items()},
    }
