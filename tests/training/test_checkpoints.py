"""What is said of a checkpoint that does not fit."""

from dataclasses import dataclass

import pytest
import torch

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.training.checkpoints import DIGESTS, add_digests, check_digests, explain_misfit

SHAPING = {"backbone": str, "network.width": float, "detector.enabled": bool}


@dataclass(frozen=True)
class Network:
    width: float = 1.0


@pytest.mark.parametrize("group", [{"width": 0.25}, Network(0.25)], ids=str)
def test_arguments_in_groups_are_named_as_the_command_names_them(group):
    misfit = explain_misfit({"network": group}, {"network": Network()}, SHAPING)
    assert misfit == (
        "The checkpoint was trained with network.width=0.25, but this model has network.width=1.0. "
        "Add --model.network.width 0.25 to the command."
    )


def test_all_that_differ_are_told():
    saved = {"backbone": "resnet18", "network": {"width": 1}, "detector": {"enabled": True}}
    own = {"backbone": "resnet34", "network": Network(), "detector": {"enabled": False}}
    assert explain_misfit(saved, own, SHAPING) == (
        "The checkpoint was trained with backbone=resnet18, detector.enabled=True, but this model has "
        "backbone=resnet34, detector.enabled=False. Add --model.backbone resnet18 --model.detector.enabled true to the "
        "command."
    )


@pytest.mark.parametrize(
    "saved", [{}, {"network": None}, {"network": {}}, {"network": {"width": 1}}, {"width": 2}], ids=str
)
def test_what_is_alike_or_unknown_is_no_misfit(saved):
    assert explain_misfit(saved, {"backbone": "resnet18", "network": Network()}, SHAPING) is None


def test_weights_that_fit_load_whatever_the_arguments_say():
    # The discriminator needs a reconstruction anyway, so that the networks are the same.
    small = {"image_size": (64, 64), "network": {"width": 0.125}}
    trained, other = (AnoSeg(**small, losses={"masked_reconstruction": value}) for value in (True, False))
    checkpoint = {"hyper_parameters": dict(trained.hparams), "state_dict": trained.state_dict()}
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"])
    with pytest.raises(ValueError, match=r"Add --model\.network\.width 0\.125 to the"):
        AnoSeg((64, 64), network={"width": 0.25}).on_load_checkpoint(checkpoint)


def test_changed_bytes_are_found_when_a_checkpoint_is_loaded(tmp_path):
    model, path = AnoSeg((64, 64), network={"width": 0.05}), tmp_path / "model.ckpt"
    checkpoint = {"hyper_parameters": dict(model.hparams), "state_dict": model.state_dict()}
    checkpoint["pytorch-lightning_version"] = "2.6.0"
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    assert AnoSeg.load_from_checkpoint(path).image_size == (64, 64)

    content, weights = bytearray(path.read_bytes()), model.model.segmenter.parameters()
    largest = max(weights, key=torch.numel).detach().permute(0, 2, 3, 1)  # as it lies in memory
    content[content.index(largest.contiguous().numpy().tobytes()[:64]) + 10] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="The checkpoint is damaged: its state_dict is not what was saved"):
        AnoSeg.load_from_checkpoint(path)


def test_checkpoints_without_digests_and_without_optimisers_load():
    states = [{"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, dtype=torch.bfloat16)}}}]
    checkpoint = {"state_dict": {"weight": torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)}}
    check_digests(checkpoint)
    checkpoint["optimizer_states"] = states
    add_digests(checkpoint)
    check_digests(checkpoint)
    states[0]["state"][0]["exp_avg"][1] += 1
    with pytest.raises(ValueError, match=f"its optimizer_states is not what .* remove its entry '{DIGESTS}'"):
        check_digests(checkpoint)
    del checkpoint["optimizer_states"]
    check_digests(checkpoint)
