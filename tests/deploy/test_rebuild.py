"""Files that are no checkpoints are named, with the reason."""

import pytest
import torch

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.deploy.rebuild import load_model
from anomalib_anoseg.models.anoseg.first_stage import load_segmentation
from anomalib_anoseg.training.checkpoints import add_digests, read_checkpoint


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


def test_the_reason_is_given_without_the_advice_to_run_code(tmp_path):
    write_code(tmp_path / "model.ckpt")
    reason = (
        r"UnpicklingError: Unsupported global: GLOBAL \S+load_model was not an allowed global by default\. Give the"
    )
    with pytest.raises(ValueError, match=reason):
        read_checkpoint(tmp_path / "model.ckpt")


def test_the_weights_that_do_not_fit_are_named(tmp_path):
    model, path = AnoSeg((64, 64), network={"width": 0.05}), tmp_path / "model.ckpt"
    weights = model.state_dict()
    name, weight = next(
        (name, weight) for name, weight in weights.items() if name.startswith("model.") and weight.dim()
    )
    content = {"hyper_parameters": dict(model.hparams), "state_dict": weights | {name: weight[1:]}}
    torch.save(content | {"pytorch-lightning_version": "2.6.0"}, path)
    with pytest.raises(ValueError, match=rf"does not load as anomalib_anoseg\.AnoSeg: .* size mismatch for {name}: "):
        load_model(path, "anomalib_anoseg.AnoSeg")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda content: content["state_dict"]["model.w"].zero_(), "is damaged: its state_dict is not what was saved"),
        (lambda content: content.update(state_dict={"model.w": torch.full((1,), torch.nan)}), "'s weights w are NaN"),
    ],
    ids=["damaged", "diverged"],
)
def test_setting_and_file_of_a_first_stage_are_named(spoil, says, tmp_path):
    content, path = {"state_dict": {"model.w": torch.ones(1)}}, tmp_path / "model.ckpt"
    if "damaged" in says:
        add_digests(content)
    spoil(content)
    torch.save(content, path)
    with pytest.raises(ValueError, match=rf"^detector\.segmentation_checkpoint: The checkpoint {path}.*{says}"):
        load_segmentation(None, path, {}, {})


@pytest.mark.parametrize("name", ["AnoSeg", "nowhere.Model", "anomalib_anoseg.Nothing"])
def test_what_is_no_model(name, tmp_path):
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(ValueError, match=f"model.ckpt does not load as {name}: "):
        load_model(tmp_path / "model.ckpt", name)
