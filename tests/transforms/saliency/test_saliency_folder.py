"""Maps from a folder: how they are found, kept and refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_anoseg.transforms import Cracks, CutPaste, OneOf
from anomalib_anoseg.transforms.saliency import (
    BorderContrast,
    NoSaliency,
    SaliencyFolder,
    SpectralResidual,
    create_saliency,
)


def save_map(path: Path, value: int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path) -> Path:
    save_map(tmp_path / "train" / "good" / "000.png", 255)
    save_map(tmp_path / "train" / "good" / "001.bmp", 51, size=(5, 9))
    save_map(tmp_path / "test" / "good" / "000.png", 0)
    save_map(tmp_path / "alone.webp", 255)
    return tmp_path


def test_checks_each_map_once_for_all_kinds_until_it_changes(folder, monkeypatch):
    opened, open_image = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or open_image(path))
    both = OneOf([CutPaste(saliency=SaliencyFolder(folder)), Cracks(saliency=SaliencyFolder(folder))])
    both.check_paths(["train/good/000.png", "train/good/001.png"])
    assert len(opened) == 2
    Image.new("F", (9, 9)).save(folder / "train" / "good" / "000.png", "TIFF")
    with pytest.raises(ValueError, match="has mode 'F'"):
        both.check_paths(["train/good/000.png"])


def test_finds_each_map_by_the_end_of_the_images_path(folder):
    paths = [f"/data/bottle/{name}" for name in ("train/good/001.jpg", "test/good/000.png", "train/good/000.png")]
    saliency = SaliencyFolder(folder)(torch.rand(3, 3, 12, 20), paths)
    assert saliency.shape == (3, 1, 12, 20)
    assert saliency.dtype == torch.float32
    assert saliency.mean((1, 2, 3)).tolist() == pytest.approx([0.2, 0, 1])


def test_a_folder_may_be_flat(folder):
    assert SaliencyFolder(folder)(torch.rand(1, 3, 8, 8), ["/data/x/y/alone.png"]).min() == 1


def test_resizes_to_the_image_and_keeps_values(tmp_path):
    values = np.zeros((8, 8), np.uint8)
    values[:4] = 255
    Image.fromarray(values).save(tmp_path / "a.png")
    saliency = SaliencyFolder(tmp_path)(torch.rand(1, 3, 32, 16), ["a.png"])
    assert saliency[..., :14, :].min() == 1
    assert saliency[..., 18:, :].max() == 0


def test_reads_a_map_once_and_keeps_it_in_bytes(folder):
    saliency = SaliencyFolder(folder)
    first = saliency(torch.rand(1, 3, 8, 8), ["alone.png"])
    (folder / "alone.webp").unlink()
    assert torch.equal(saliency(torch.rand(1, 3, 8, 8), ["alone.png"]), first)
    assert [kept.dtype for kept in saliency._cache.values()] == [torch.uint8]
    assert not saliency.state_dict()
    assert torch.equal(pickle.loads(pickle.dumps(saliency))(torch.rand(1, 3, 8, 8), ["alone.png"]), first)


def test_follows_a_change_of_size(folder):
    saliency = SaliencyFolder(folder)
    for size in ((8, 8), (16, 4), (8, 8)):
        assert saliency(torch.rand(1, 3, *size), ["alone.png"]).shape == (1, 1, *size)


def test_nothing_is_read_before_it_is_needed(tmp_path):
    assert repr(SaliencyFolder(tmp_path / "missing")) == f"SaliencyFolder(root='{tmp_path / 'missing'}')"


@pytest.mark.parametrize("paths", [None, ["a.png"]])
def test_asks_for_a_path_an_image(folder, paths):
    with pytest.raises(ValueError, match=r"one for each of 2, got (none|1): pass paths=batch.image_path, or use"):
        SaliencyFolder(folder)(torch.rand(2, 3, 8, 8), paths)


def test_names_the_missing_map_and_the_nearest(folder):
    with pytest.raises(FileNotFoundError, match=r"No saliency map for .*002.png among the 4 below .*train/good/00"):
        SaliencyFolder(folder)(torch.rand(1, 3, 8, 8), ["/data/train/good/002.png"])


def test_names_the_missing_folder_and_the_estimators(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder of saliency maps '.*border', .*border_contrast"):
        create_saliency(str(tmp_path / "border"))(torch.rand(1, 3, 8, 8), ["a.png"])


def test_refuses_one_map_for_two_images(folder):
    saliency = SaliencyFolder(folder)
    saliency(torch.rand(1, 3, 8, 8), ["train/alone.png"])
    with pytest.raises(ValueError, match=r"would be the saliency map of two images, .*train/alone.png and .*test/"):
        saliency(torch.rand(1, 3, 8, 8), ["test/alone.png"])


def test_refuses_two_maps_for_one_image(folder):
    save_map(folder / "alone.png", 3)
    with pytest.raises(ValueError, match=r"alone.png and .*alone.webp would both be the map of one image"):
        SaliencyFolder(folder)(torch.rand(1, 3, 8, 8), ["alone.png"])


def test_refuses_what_eight_bits_would_cut_off(tmp_path):
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"8 bits per channel, but .*a.png has mode 'I;16'\. Convert the maps"):
        SaliencyFolder(tmp_path).check_paths(["a.png"])


def test_broken_map_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"spoiled")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(
        ValueError, match=r"^saliency: .*a\.png cannot be read \(UnidentifiedImageError.*Replace the map"
    ):
        SaliencyFolder(tmp_path)(torch.rand(1, 3, 8, 8), ["a.png"])
    with pytest.raises(ValueError, match=r"^saliency: .*b\.png is a folder"):
        SaliencyFolder(tmp_path).check_paths(["b.png"])


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("none", NoSaliency),
        ("border_contrast", BorderContrast),
        ("spectral_residual", SpectralResidual),
        ("some/maps", SaliencyFolder),
    ],
)
def test_is_created_from_plain_text(name, cls):
    assert type(create_saliency(name)) is cls
