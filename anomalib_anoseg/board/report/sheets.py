"""Contact sheets: the best and the worst test images of a model, with truth and anomaly map side by side."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from skimage.segmentation import find_boundaries
from tqdm import tqdm

from anomalib_anoseg.board.report.plots import THRESHOLD
from anomalib_anoseg.board.report.records import FinishedJob

SIDE = 176  # pixels of a thumbnail's longer side
COLUMNS = ("image_path", "defect", "gt_label", "pred_score")
COLORMAP = "inferno"  # perceptually even, also for colour-blind readers
TRUTH, EDGE, OUTLINE = (0, 158, 115), (160, 255, 220), (86, 220, 240)


class Sheet(NamedTuple):
    """The images of one model, category and seed.

    Attributes:
        title: What they are of.
        groups: Images that were chosen for one reason, by that reason. Each has ``name``, ``defect`` and ``score``, and
            its ``pictures``: data URIs by what they show; ``None`` if it cannot be read.
    """

    title: str
    groups: dict[str, list[dict[str, Any]]]


def contact_sheets(jobs: Sequence[FinishedJob], count: int) -> list[Sheet]:
    """Make a contact sheet for each model and category, of the lowest seed that has images.

    Args:
        jobs: Finished jobs; trivial rows get no sheet.
        count: Number of images a group.
    """
    chosen: dict[tuple[str, str], FinishedJob] = {}
    for job in sorted(jobs, key=lambda job: job.seed):
        if not job.is_trivial and (job.folder / "images.csv").is_file():
            chosen.setdefault((job.label, job.category), job)
    ordered = [chosen[key] for key in dict.fromkeys((job.label, job.category) for job in jobs) if key in chosen]
    return [_sheet(job, count) for job in tqdm(ordered, desc="Contact sheets", unit="sheet", leave=False)]


def choose(images: pd.DataFrame, count: int) -> dict[str, pd.DataFrame]:
    """Choose the images of a contact sheet: defects by IoU, good images by score.

    Without masks, defects are chosen by score as well. Ties, such as many images of IoU 0, are broken by score.

    Args:
        images: Columns ``gt_label``, ``pred_score`` and ``iou``.
        count: Number of images a group; an image of a small set is in one group only.

    Returns:
        Images of each group that is not empty, most telling first.

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


def _sheet(job: FinishedJob, count: int) -> Sheet:
    """Make the sheet of a job.

    Raises:
        ValueError: If its ``images.csv`` lacks a column.
    """
    path = job.folder / "images.csv"
    images = pd.read_csv(path)
    absent = [name for name in COLUMNS if name not in images]
    if absent:
        raise ValueError(f"{path} lacks the column(s) {', '.join(absent)}. Remove its folder and run the job again.")
    images = images.reindex(columns=[*COLUMNS, "mask_path", "map_path", "iou"])
    images["iou"] = pd.to_numeric(images["iou"])
    groups = {
        title: [_entry(job.folder, image) for image in chosen.to_dict("records")]
        for title, chosen in choose(images, count).items()
    }
    return Sheet(f"{job.label}, {job.category}, seed {job.seed}", groups)


def _entry(folder: Path, image: dict[str, Any]) -> dict[str, Any]:
    iou = f"IoU {image['iou']:.2f}, " if pd.notna(image["iou"]) else ""
    pixels, values = _read(folder, image["image_path"], "RGB"), _read(folder, image["map_path"], "L")
    pictures = {
        "picture": pixels,
        "truth": None if pixels is None else _draw_truth(folder, pixels, image),
        "map": None if values is None else _draw_map(values),
    }
    return {
        "name": Path(str(image["image_path"])).name,
        "defect": str(image["defect"]),
        "score": f"{iou}score {float(image['pred_score']):.2f}",
        "pictures": {what: None if drawn is None else _uri(drawn) for what, drawn in pictures.items()},
    }


def _read(folder: Path, path: Any, mode: str) -> NDArray[np.uint8] | None:  # noqa: ANN401
    """Read a thumbnail; a path that is not absolute is relative to the folder."""
    if not isinstance(path, str) or not path:
        return None
    try:
        with Image.open(folder / path) as image:
            thumbnail = image.convert(mode)
    except OSError:
        return None
    thumbnail.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(thumbnail)


def _draw_truth(folder: Path, pixels: NDArray[np.uint8], image: dict[str, Any]) -> NDArray[np.uint8] | None:
    """Draw the mask onto the picture in grey; ``None`` if an anomalous image has no mask that can be read."""
    gray = np.asarray(Image.fromarray(pixels).convert("L").convert("RGB")) // 2 + 40
    if int(image["gt_label"]) == 0:
        return gray.astype(np.uint8)
    mask = _read(folder, image["mask_path"], "L")
    if mask is None:
        return None
    inside = np.asarray(Image.fromarray(mask).resize(pixels.shape[1::-1], Image.Resampling.NEAREST)) > 0
    tinted = np.where(inside[..., None], 0.35 * gray + 0.65 * np.array(TRUTH), gray)
    tinted[find_boundaries(inside, mode="inner")] = EDGE
    return tinted.astype(np.uint8)


def _draw_map(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colour a map, the same way for all images, and outline what is above the threshold."""
    colored = _colors(values).copy()
    colored[find_boundaries(values >= THRESHOLD * 255, mode="inner")] = OUTLINE
    return colored


def color_bar() -> str:
    """Draw the colours of anomaly maps from 0 to 1, as a data URI."""
    return _uri(_colors(np.linspace(0, 255, 256).astype(np.uint8)[None].repeat(8, 0)))


def _colors(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(mpl.colormaps[COLORMAP](values, bytes=True)[..., :3], dtype=np.uint8)


def _uri(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
