"""Judge how well estimators of saliency find the object, and how many forged pixels lie on it.

For each folder of *normal* images and each estimator:

- empty: the share of images in which it finds nothing, which is right in pictures of textures;
- IoU: how well its map above 0.5 fits the object, over all pixels of the folder;
- on object: the share of forged pixels on the object, by `SaliencyPerlin` with this saliency and its other defaults,
  but with an anomaly in every image and no rotation. `none` is plain Perlin noise, whose share is about the object's
  area.

Otsu's threshold on grey values defines the object, independently of all estimators: the side of it on which less of the
border lies, with holes filled. That is right for one object on an even background. It means nothing for textures, where
`empty` counts. Page: saliency.md.

    python -m benchmarks.experiments.saliency [FOLDER ...] [--images 64] [--sheet sheet.jpg] \
        [--json saliency.json] [--markdown]

Without folders it takes pictures of scikit-image: three textures, and pictures with objects.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import binary_fill_holes
from skimage import data
from skimage.filters import threshold_otsu
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, resize, to_pil_image
from torchvision.utils import make_grid

from anomalib_anoseg.transforms import SaliencyPerlin
from anomalib_anoseg.transforms.saliency import ESTIMATORS
from benchmarks.common import begin, format_table, make_parser, write_json

SHIPPED = ("brick", "grass", "gravel", "horse", "cell", "astronaut", "coffee", "rocket", "cat", "camera")
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
CHUNK = 16
CELL = 56  # pixels of a picture on the sheet


def read(folder: Path | None, options: argparse.Namespace) -> tuple[Tensor, list[str]]:
    """Read images, ``(N, 3, S, S)`` in ``[0, 1]``, and their paths: some of a folder, or those shipped."""
    if folder is None:
        paths = list(SHIPPED)
        pictures = [Image.fromarray(getattr(data, name)()) for name in paths]
    else:
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        chosen = np.random.default_rng(options.seed).permutation(len(found))[: options.images]
        paths = [str(found[index]) for index in sorted(chosen)]
        pictures = [Image.open(path) for path in paths]
    side = [options.size, options.size]
    images = [resize(pil_to_tensor(picture.convert("RGB")), side, antialias=True) for picture in pictures]
    return torch.stack(images).float() / 255, paths


def find_by_otsu(image: Tensor) -> Tensor:
    """Find the object of a ``(3, H, W)`` image by Otsu's threshold: ``(1, H, W)`` bool."""
    gray = image.mean(0).numpy()
    bright = gray > threshold_otsu(gray)
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    return torch.from_numpy(binary_fill_holes(~bright if border.mean() > 0.5 else bright))[None]


def judge(
    name: str, images: Tensor, paths: list[str], objects: Tensor, options: argparse.Namespace
) -> tuple[dict[str, float], Tensor, Tensor, Tensor]:
    """Judge one estimator; return its figures, the maps, and the last draw of forged images and masks."""
    augmenter = SaliencyPerlin(saliency=name, p=1.0, rotation_p=0.0).manual_seed(options.seed)
    maps = torch.cat([augmenter.saliency(chunk) for chunk in images.split(CHUNK)])
    salient, on_object, forged_pixels = maps > 0.5, 0.0, 0.0
    for _ in range(options.draws):
        pairs = [
            augmenter.forge(chunk, paths=paths[CHUNK * index : CHUNK * (index + 1)])
            for index, chunk in enumerate(images.split(CHUNK))
        ]
        forged, mask = torch.cat([pair.image for pair in pairs]), torch.cat([pair.mask for pair in pairs])
        on_object += (mask * objects).sum().item()
        forged_pixels += mask.sum().item()
    figures = {
        "empty": (maps.mean((1, 2, 3)) < 1e-3).float().mean().item(),
        "IoU": ((salient & objects).sum() / (salient | objects).sum()).item(),
        "on object": on_object / max(forged_pixels, 1.0),
        "forged": forged_pixels / mask.numel() / options.draws,
    }
    return figures, maps, forged, mask


def draw_sheet(rows: list[dict[str, Tensor]], path: Path) -> None:
    """Draw a contact sheet: a row an image, a column a kind of picture; print the names of the columns."""
    cells = [
        resize(picture.expand(3, -1, -1), [CELL, CELL], antialias=True) for row in rows for picture in row.values()
    ]
    to_pil_image(make_grid(cells, len(rows[0]), pad_value=1)).save(path, quality=30, optimize=True)
    print("columns of the sheet:", ", ".join(rows[0]))


def table(figures: dict[str, dict[str, Any]], options: argparse.Namespace) -> str:
    """Format all figures in per cent, separated by tabs or in Markdown."""
    kinds = ("empty", "IoU", "on object", "forged")
    lines = [["images", "object", "saliency", *kinds]]
    for title, content in figures.items():
        for name, values in content["saliency"].items():
            cells = [f"{100 * value:.1f} %" for value in (content["object"], *(values[kind] for kind in kinds))]
            lines.append([f"{title} ({content['images']})", cells[0], name, *cells[1:]])
    return format_table(lines, markdown=options.markdown)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "seed", "threads", "markdown")
    parser.add_argument("folders", type=Path, nargs="*", help="folders of normal images; if none, scikit-image's")
    parser.add_argument("--images", type=int, default=64, help="most images of each folder (default: 64)")
    parser.add_argument("--draws", type=int, default=4, help="draws of anomalies per image (default: 4)")
    parser.add_argument("--shown", type=int, default=4, help="images of each folder on the sheet (default: 4)")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--sheet", type=Path, metavar="PATH", help="draw a contact sheet")
    return parser.parse_args()


def main() -> None:
    """Judge all estimators on all folders."""
    options = parse_options()
    begin(options)
    figures: dict[str, dict[str, Any]] = {}
    rows = []
    for folder in options.folders or [None]:
        images, paths = read(folder, options)
        objects = torch.stack([find_by_otsu(image) for image in images])
        title = str(folder or "scikit-image")
        content: dict[str, Any] = {"images": len(images), "object": objects.float().mean().item(), "saliency": {}}
        shown = range(0, len(images), max(1, len(images) // options.shown)) if folder else range(len(images))
        cells = [{"image": images[index], "Otsu": objects[index].float()} for index in shown]
        for name in ESTIMATORS:
            content["saliency"][name], maps, forged, mask = judge(name, images, paths, objects, options)
            for cell, index in zip(cells, shown, strict=True):
                if name != "none":
                    cell[name] = maps[index]
                cell[f"forged: {name}"], cell[f"mask: {name}"] = forged[index], mask[index]
        figures[title] = content
        rows += cells[: options.shown] if folder else cells
    if options.sheet:
        draw_sheet(rows, options.sheet)
    write_json(options, figures=figures)
    print(table(figures, options))


if __name__ == "__main__":
    main()
