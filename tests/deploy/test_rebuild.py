"""Files that are no checkpoints are named, with the reason."""

import pytest
import torch

from anomalib_anoseg.deploy.rebuild import load_model, read_checkpoint
from anomalib_anoseg.models.anoseg.first_stage import load_segmentation


def write_text(path):
    path.write_text("no checkpoint")


def write_code(path):
    torch.save({"state_dict": {}, "more": load_model}, path)


def write_weights(path):
    torch.save({"encoder.weight": torch.zeros(1)}, path)


@pytest.mark.parametrize("write", [write_text, write_code, write_weights])
def test_what_is_no_checkpoint(write, tmp_path):
    path = tmp_path / "model.ckpt"
    write(path)
    with pytest.raises(
        ValueError, match=r"model.ckpt is no checkpoint that can be read: .* Give the model.ckpt"
    ) as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"detector.segmentation_checkpoint: .*model.ckpt is no checkpoint"):
        load_segmentation(None, path, {}, {})
    with pytest.raises(ValueError, match=r"model.ckpt does not load as anomalib_anoseg.AnoSeg: ") as error:
        load_model(path, "anomalib_anoseg.AnoSeg")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["AnoSeg", "nowhere.Model", "anomalib_anoseg.Nothing"])
def test_what_is_no_model(name, tmp_path):
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(ValueError, match=f"model.ckpt does not load as {name}: "):
        load_model(tmp_path / "model.ckpt", name)
