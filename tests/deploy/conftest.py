"""Pictures on a disk, of which every export must say what the tested model says."""

from pathlib import Path

import numpy as np
import pytest
from anomalib.data import PredictDataset
from anomalib.engine import Engine
from PIL import Image

# Height and width: larger than the networks' 64x64, smaller, wide, tall, odd.
SHAPES = [(230, 210), (40, 33), (70, 301), (310, 66), (127, 65)]


def draw(height, width, seed):
    """Draw much detail, which a resize without antialiasing keeps and one with it does not."""
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR), dtype=np.int64)
    checks = 90 * ((np.arange(height)[:, None] + np.arange(width)) % 2)[..., None]
    return Image.fromarray((smooth // 2 + checks).astype(np.uint8))


@pytest.fixture(scope="session")
def draw_picture():
    return draw


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Files of all shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, shape in enumerate(SHAPES):
        draw(*shape, seed=number).save(folder / f"{number}.png")
    return sorted(folder.glob("*.png"))


@pytest.fixture(scope="session")
def predict_files(pictures, tmp_path_factory):
    """Let ``Engine.predict`` read the files; returns what it says of each, by its path."""

    def predict(model):
        engine = Engine(accelerator="cpu", logger=False, default_root_dir=tmp_path_factory.mktemp("predict"))
        batches = engine.predict(model, dataset=PredictDataset(pictures[0].parent), return_predictions=True)
        return {Path(item.image_path): item for batch in batches for item in batch}

    return predict
