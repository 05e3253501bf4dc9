"""What is said of a checkpoint that does not fit."""

import copy
import re
import warnings
from dataclasses import dataclass

import pytest
import torch
from anomalib.cli.cli import AnomalibCLI
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_anoseg import SGSF, AnoSeg
from anomalib_anoseg.training.checkpoints import DIGESTS, add_digests, check_digests, explain_misfit, read_checkpoint

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


def test_the_advised_line_accepts_a_checkpoint_that_was_changed_on_purpose(tmp_path):
    checkpoint, path = {"state_dict": {"weight": torch.ones(2)}}, tmp_path / "model.ckpt"
    add_digests(checkpoint)
    checkpoint["state_dict"]["weight"] *= 2
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=rf"^The checkpoint {path} is damaged: its state_dict is not what") as raised:
        read_checkpoint(path)
    exec(str(raised.value).partition(" in Python: ")[2].rstrip("."), {"torch": torch, "FILE": path})
    assert read_checkpoint(path)["state_dict"]["weight"].tolist() == [2, 2]


def test_states_of_optimisers_are_checked_only_where_a_training_goes_on():
    model = small(AnoSeg)
    checkpoint = checkpoint_of(model) | {"optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}}]}
    model.on_save_checkpoint(checkpoint)
    checkpoint["optimizer_states"][0]["state"][0]["step"] += 1
    model.on_load_checkpoint(checkpoint)
    model.trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    model.trainer.state.fn = TrainerFn.FITTING
    with pytest.raises(ValueError, match="its optimizer_states is not what was saved"):
        model.on_load_checkpoint(checkpoint)


def checkpoint_of(model):
    return {"hyper_parameters": dict(model.hparams), "state_dict": model.state_dict()}


def small(kind, **groups):
    extractor = {"extractor": {"name": "test_resnet"}} if kind is SGSF else {}
    return kind(**{"image_size": (64, 64), "network": {"width": 0.05}, **extractor, **groups})


@pytest.mark.parametrize(
    ("kind", "trained", "option"),
    [
        (AnoSeg, {"network": {"width": 0.05, "score_window": 11}}, "network.score_window 11"),
        (AnoSeg, {"image_size": (96, 64)}, "image_size '[96, 64]'"),
        (AnoSeg, {"detector": {"enabled": True, "beta": 0.5}}, "detector.beta 0.5"),
        (SGSF, {"network": {"width": 0.05, "score_window": 11}}, "network.score_window 11"),
        (SGSF, {"extractor": {"name": "test_resnet", "size": 32}}, "extractor.size 32"),
        (SGSF, {"guidance": {"kind": "single"}}, "guidance.kind single"),
    ],
)
def test_settings_that_change_results_are_named_though_the_weights_fit(kind, trained, option):
    own = {"detector": {"enabled": True}} if "detector" in trained else {}
    model = small(kind, **own)
    with pytest.raises(ValueError, match=re.escape(f"Add --model.{option} to the command.")):
        model.on_load_checkpoint(checkpoint_of(small(kind, **trained)))


def test_all_are_named_at_once_where_the_weights_do_not_fit():
    checkpoint = checkpoint_of(small(AnoSeg, network={"width": 0.1, "score_window": 11}))
    with pytest.raises(ValueError, match=re.escape("Add --model.network.width 0.1 --model.network.score_window 11 to")):
        small(AnoSeg).on_load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("kind", "trained", "name"),
    [
        (AnoSeg, {"detector": {"enabled": True}, "image_score": "detector"}, "image_score detector"),
        (SGSF, {"bank": {"precision": "float32"}}, "bank.precision float32"),
    ],
)
def test_what_may_be_chosen_later_is_said_in_one_line(kind, trained, name, recwarn):
    small(kind, **{key: value for key, value in trained.items() if key == "detector"}).on_load_checkpoint(
        checkpoint_of(small(kind, **trained))
    )
    (line,) = [str(warning.message) for warning in recwarn if "--model" in str(warning.message)]
    assert line.endswith(f"Add --model.{name} to the command, unless you chose this.")


def test_settings_of_training_are_not_named(recwarn):
    trained = small(
        AnoSeg,
        patches={"area": (0.1, 0.2)},
        noise={"share": 0.5},
        losses={"segmentation": "l1"},
        calibration={"area": (0.1, 0.2)},
        optimizer={"lr": 0.1, "averaging": 0.5},
        network={"width": 0.05, "channels_last": False, "compile": True},
        seed=7,
        max_epochs=3,
    )
    small(AnoSeg).on_load_checkpoint(checkpoint_of(trained))
    trained = small(
        SGSF, guidance={"contrast_size": 2, "detach": True}, anomalies={"p": 1.0}, losses={"focal_gamma": 1.0}, seed=7
    )
    small(SGSF).on_load_checkpoint(checkpoint_of(trained))
    assert not [warning for warning in recwarn if "--model" in str(warning.message)]


def test_a_training_that_goes_on_may_change_what_its_thresholds_follow_but_not_the_size():
    model = small(AnoSeg, network={"width": 0.05, "score_window": 11})
    model.trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    model.trainer.state.fn = TrainerFn.FITTING
    model.on_load_checkpoint(checkpoint_of(small(AnoSeg)))
    with pytest.raises(ValueError, match=r"Add --model\.image_size"):
        model.on_load_checkpoint(checkpoint_of(small(AnoSeg, image_size=(96, 64))))


RANDOM = "AnoSeg has random weights, because it was neither trained nor loaded."


def test_the_command_ends_with_2_where_weights_are_random(tiny_root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = f"predict --model AnoSeg --model.image_size [64,64] --data {tiny_root} --trainer.accelerator cpu"
    with pytest.raises(SystemExit) as caught:
        AnomalibCLI(args=command.split())
    assert caught.value.code == 2
    assert f"{RANDOM} Add --ckpt_path to the command" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["test", "predict", "validate", "export"])
def test_python_only_warns_of_random_weights(verb, tmp_path):
    model = small(AnoSeg)
    model.trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    model.trainer.state.fn = TrainerFn.VALIDATING
    uses = {"test": model.on_test_start, "predict": model.on_predict_start, "validate": model.on_validation_start}
    use = uses.get(verb, lambda: model.to_torch(tmp_path))
    with pytest.warns(UserWarning, match=RANDOM):
        use()
    model.load_state_dict(small(AnoSeg).state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use()


def test_validations_of_a_training_are_no_use_of_random_weights(recwarn):
    model = small(AnoSeg)
    model.trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    model.trainer.state.fn = TrainerFn.FITTING
    model.on_validation_start()
    assert not [warning for warning in recwarn if RANDOM in str(warning.message)]
    model.on_train_start()
    assert copy.deepcopy(model).has_learned
