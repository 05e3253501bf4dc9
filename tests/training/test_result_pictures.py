"""Each file has a picture of its result, whatever it is called."""

from types import SimpleNamespace

import torch
from anomalib.data import ImageBatch
from anomalib.visualization import ImageVisualizer
from PIL import Image

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.training.result_pictures import ResultPictures


def show(visualizer, root, *paths, verb="predict"):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(path)
    trainer = SimpleNamespace(default_root_dir=str(root), datamodule=None)
    batch = ImageBatch(image=torch.rand(len(paths), 3, 32, 32), image_path=[str(path) for path in paths])
    getattr(visualizer, f"on_{verb}_batch_end")(trainer, None, None, batch, 0)
    return sorted(path.relative_to(root / "images").as_posix() for path in root.rglob("*.png"))


def test_pictures_of_one_name_in_two_folders_keep_two_results(tmp_path):
    paths = [tmp_path / "in" / name for name in ("a/good/1.png", "b/good/1.png", "x/b/good/1.png", "a/bad/1.png")]
    visualizer, out = AnoSeg.configure_visualizer(), tmp_path / "out"
    assert show(visualizer, out, *paths[:2]) == ["b/good/1.png", "good/1.png"]
    assert show(visualizer, out, *paths[2:]) == ["b/good/1.png", "bad/1.png", "good/1.png", "x/b/good/1.png"]
    assert show(visualizer, out, *paths) == ["b/good/1.png", "bad/1.png", "good/1.png", "x/b/good/1.png"]


def test_results_of_different_names_stay_where_anomalib_puts_them(tmp_path):
    paths = [tmp_path / "in" / name for name in ("good/1.png", "good/2.png", "bad/1.png")]
    hosts = show(ImageVisualizer(), tmp_path / "hosts", *paths, verb="test")
    assert show(ResultPictures(), tmp_path / "ours", *paths, verb="test") == hosts
