"""AnoSeg and its detector, trained one after the other in one fit.

One whole training is run for all tests of this file; every resumed one must end where it did.
"""

import copy
import re

import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback
from torch.optim import SGD

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.common.presets import merge
from anomalib_anoseg.models.anoseg import stages
from anomalib_anoseg.models.anoseg.detector import DetectorModel
from anomalib_anoseg.models.anoseg.stages import split_steps
from anomalib_anoseg.models.anoseg.torch_model import AnoSegModel
from anomalib_anoseg.training import schedules
from anomalib_anoseg.training.post_processor import SelfCalibratingPostProcessor
from anomalib_anoseg.transforms import HardCutPaste

EPOCHS = 4


def tiny(**arguments):
    settings = {
        "image_size": (64, 64),
        "network": {"width": 0.125},
        "visualizer": False,
        "evaluator": False,
        "detector": {"enabled": True, "share": 0.5},
    }
    return AnoSeg(**merge(settings, arguments))


def fit(model, data, path, ckpt_path=None, callbacks=(), **trainer):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "num_sanity_val_steps": 0}
    engine = Engine(
        accelerator="cpu",
        devices=1,
        default_root_dir=path,
        callbacks=[*callbacks],
        **({"max_epochs": 1} | quiet | trainer),
    )
    engine.fit(model, datamodule=copy.deepcopy(data), ckpt_path=ckpt_path)
    return engine


def weights(model, detector=None):
    """Weights of the networks: the detector's, all others, or all."""
    state = model.model.state_dict()
    return {
        name: value.clone()
        for name, value in state.items()
        if detector is None or name.startswith("detector.") == detector
    }


def calibrations(model):
    """Threshold and range of both image scores."""
    return {name: getattr(model.post_processor, f"image_score_{name}") for name in ("map", "detector")}


def in_use(model):
    """Threshold and range of the image score in use."""
    names = ("_image_threshold", "image_min", "image_max")
    return torch.stack([getattr(model.post_processor, name) for name in names])


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Recorder(Callback):
    """Notes the stage of each batch, the learning rates, and the weights with which the detector starts."""

    def __init__(self):
        self.stages, self.rates, self.at_switch = [], [], None

    def on_train_batch_end(self, trainer, pl_module, *args):
        del args
        self.stages.append(pl_module.stages.current)
        self.rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if self.at_switch is None and any(optimizer is own for own in trainer.optimizers[2:]):
            self.at_switch = weights(pl_module)


class Keeper(Callback):
    """Keeps a checkpoint of each epoch, at the time when anomalib writes its own."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_end(self, trainer, pl_module):
        del pl_module
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


@pytest.fixture(scope="module")
def whole(module_data, tmp_path_factory):
    """A training of both stages, two epochs each: model, what was recorded, trainer, folder of checkpoints."""
    root, recorder = tmp_path_factory.mktemp("whole"), Recorder()
    model = tiny()
    engine = fit(model, module_data, root, callbacks=[recorder, Keeper(root / "kept")], max_epochs=EPOCHS)
    return model, recorder, engine.trainer, root / "kept"


@pytest.fixture(scope="module")
def plain(module_data, tmp_path_factory):
    """An AnoSeg without a detector, trained as long as the first stage, and its checkpoint."""
    root = tmp_path_factory.mktemp("plain")
    model = tiny(detector={"enabled": False})
    engine = fit(model, module_data, root, max_epochs=EPOCHS // 2)
    engine.trainer.save_checkpoint(root / "model.ckpt")
    return model, root / "model.ckpt"


# ------------------------------------------------------------------------------------------------------------ stages


def test_stages_follow_each_other(whole):
    _, recorder, trainer, _ = whole
    assert recorder.stages == ["segmentation"] * 4 + ["detector"] * 4
    assert len(trainer.optimizers) == 4
    assert trainer.global_step == 16, "two optimisers step at a time"


def test_each_learning_rate_falls_over_its_own_stage(whole):
    rates = [[rate / 2e-4 for rate in step] for step in whole[1].rates]
    assert rates[:4] == [pytest.approx([rate, rate, 1, 1]) for rate in (1, 1, 0.5, 0)]
    assert rates[4:] == [pytest.approx([0, 0, rate, rate]) for rate in (1, 1, 0.5, 0)]


def test_first_stage_is_a_training_of_its_own_and_stays_as_it_was(whole, plain):
    """Bit by bit: nothing of the detector is drawn, learned or averaged in the first stage, nor the reverse."""
    assert equal(weights(whole[0], detector=False), weights(plain[0]))
    at_switch = {name: value for name, value in whole[1].at_switch.items() if not name.startswith("detector.")}
    assert equal(at_switch, weights(plain[0]))


def test_detector_learns_in_the_second_stage_alone(whole):
    fresh = weights(tiny(), detector=True)
    parameters = dict(whole[0].model.detector.named_parameters(prefix="detector"))
    assert all(torch.equal(whole[1].at_switch[name], fresh[name]) for name in parameters)
    assert all(not torch.equal(parameter, fresh[name]) for name, parameter in parameters.items())


def test_without_a_detector_there_is_no_trace_of_it(plain):
    model, path = plain
    saved = torch.load(path, weights_only=True)
    assert not [name for name in saved["state_dict"] if "detector" in name or "image_score" in name]
    assert len(saved["optimizer_states"]) == 2
    assert not [name for name, _ in model.post_processor.named_buffers() if name.startswith("image_score")]
    assert equal(weights(tiny(), detector=False), weights(tiny(detector={"enabled": False})))


@pytest.mark.parametrize("epoch", range(EPOCHS - 1))
def test_resumed_run_ends_where_an_uninterrupted_one_does(epoch, whole, module_data, tmp_path):
    """From the midst of the first stage, from between the two, and from the midst of the second."""
    model, recorder, _, kept = whole
    resumed, again = tiny(), Recorder()
    engine = fit(resumed, module_data, tmp_path, kept / f"{epoch}.ckpt", [again], max_epochs=EPOCHS)
    assert again.stages == recorder.stages[2 * (epoch + 1) :]
    assert engine.trainer.global_step == 16
    assert equal(weights(resumed), weights(model))
    assert torch.equal(resumed.post_processor.image_threshold, model.post_processor.image_threshold)


@pytest.mark.parametrize(
    ("arguments", "steps", "batches"),
    [
        ({}, 12, (3, 3)),
        ({"detector": {"share": 0.3}}, 20, (7, 3)),
        # One optimiser, then two.
        ({"losses": {"adversarial": False}}, 9, (3, 3)),
    ],
    ids=str,
)
def test_stages_follow_max_steps(arguments, steps, batches, module_data, tmp_path):
    recorder = Recorder()
    engine = fit(tiny(**arguments), module_data, tmp_path, None, [recorder], max_epochs=-1, max_steps=steps)
    assert engine.trainer.global_step == steps
    assert recorder.stages == ["segmentation"] * batches[0] + ["detector"] * batches[1]
    assert recorder.rates[-1] == pytest.approx([0] * len(recorder.rates[-1]))


@pytest.mark.parametrize(
    ("batches", "trainer"),
    [(4, {"max_epochs": 4}), (2, {"max_epochs": -1, "max_steps": 4})],
    ids=["an epoch ends within a step", "max_steps"],
)
def test_learning_rate_falls_over_all_steps_of_several_batches(batches, trainer, module_data, tmp_path):
    recorder = Recorder()
    model = tiny(
        detector={"enabled": False}, losses={"adversarial": False}, optimizer={"accumulate_grad_batches": batches}
    )
    engine = fit(model, module_data, tmp_path, None, [recorder], limit_val_batches=0, **trainer)
    assert engine.trainer.global_step == 4
    assert [rate / 2e-4 for (rate,) in recorder.rates] == pytest.approx([1, 1, 1, 1, 1, 0.5, 0.5, 0])


class Failure(Callback):
    """Ends a training in the midst of a step, as too little memory does."""

    def on_before_optimizer_step(self, *args):
        del args
        raise RuntimeError("out of memory")


def test_training_can_begin_anew_where_a_step_failed(module_data, tmp_path):
    model = tiny(detector={"enabled": False})
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(model, module_data, tmp_path, callbacks=[Failure()])
    assert all(parameter.requires_grad for parameter in model.model.segmenter.parameters())


def test_stages_follow_time(module_data, tmp_path, monkeypatch):
    recorder = Recorder()
    # A fifth of the time for each batch, in a training of ten: time comes first, as it does for learning rates.
    for module in (stages, schedules):
        monkeypatch.setattr(module, "time_progress", lambda _: min(1.0, len(recorder.stages) / 5))
    fit(tiny(detector={"share": 0.4}), module_data, tmp_path, None, [recorder], max_epochs=5, limit_train_batches=1)
    assert recorder.stages == ["segmentation"] * 3 + ["detector"] * 2


def test_accumulation_clipping_low_precision_and_compilation(module_data, tmp_path, monkeypatch):
    compiled = []
    for network in (AnoSegModel, DetectorModel):
        monkeypatch.setattr(network, "compile", lambda network: compiled.append(type(network)))
    model, recorder = (
        tiny(optimizer={"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}, network={"compile": True}),
        Recorder(),
    )
    engine = fit(model, module_data, tmp_path, None, [recorder], max_epochs=2, precision="bf16-mixed")
    assert compiled == [AnoSegModel, DetectorModel]
    assert recorder.stages == ["segmentation"] * 2 + ["detector"] * 2
    assert engine.trainer.global_step == 4
    assert all(values.isfinite().all() for values in weights(model).values())
    assert {values.dtype for values in weights(model).values()} <= {torch.float32, torch.int64}


def test_progress_bar_tells_the_stage(whole):
    logged = whole[2].callback_metrics
    assert (logged["segmentation"], logged["detector"]) == (1, 1)
    assert {f"train_detector_{name}_loss" for name in ("discriminator", "classification", "feature")} < set(logged)


def test_no_host_synchronisation(plain, module_data, tmp_path, count_operations, monkeypatch):
    # Adam counts its steps in tensors on the host, wherever the weights are: reading those waits for no device.
    monkeypatch.setattr(stages, "Adam", lambda parameters, lr, betas: SGD(parameters, lr, betas[0]))
    model, counts = tiny(detector={"segmentation_checkpoint": str(plain[1])}), []
    step = model.training_step

    def counted(*args):
        with count_operations() as counter:
            step(*args)
        counts.append((counter.operations > 100, counter.synchronisations))

    monkeypatch.setattr(model, "training_step", counted)
    fit(model, module_data, tmp_path, limit_val_batches=0)
    assert counts == [(True, 0), (True, 0)]


def test_steps_are_split():
    assert split_steps(float("inf"), (0.5, 0.5)) == [float("inf")] * 2
    assert split_steps(1, (0.5, 0.5)) == [1, 1]
    assert split_steps(3, (0.99, 0.01)) == [2, 1]


# ------------------------------------------------------------------------------------------------ the detector alone


def test_detector_of_a_trained_anoseg(plain, whole, module_data, tmp_path):
    model, recorder = tiny(detector={"segmentation_checkpoint": str(plain[1])}), Recorder()
    engine = fit(model, module_data, tmp_path, None, [recorder])
    assert recorder.stages == ["detector"] * 2
    assert len(engine.trainer.optimizers) == 2
    assert recorder.rates[-1] == pytest.approx([0, 0])
    assert equal(weights(model, detector=False), weights(plain[0]))
    # Its checkpoint needs the first one no more.
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = tiny(detector={"segmentation_checkpoint": "gone.ckpt"})
    fit(again, module_data, tmp_path, tmp_path / "model.ckpt", max_epochs=2)
    assert equal(weights(again, detector=False), weights(plain[0]))
    # One with a detector serves, too; the detector starts anew.
    other = tiny(detector={"segmentation_checkpoint": str(whole[3] / "3.ckpt")})
    other.on_fit_start()
    assert equal(weights(other, detector=False), weights(whole[0], detector=False))
    assert equal(weights(other, detector=True), weights(tiny(), detector=True))


def test_refuses_checkpoints_that_are_no_first_stage(plain, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"segmentation_checkpoint: there is no file nowhere.ckpt"):
        tiny(detector={"segmentation_checkpoint": "nowhere.ckpt"}).on_fit_start()
    with pytest.raises(
        ValueError, match=r"width=0.125, but .*width=0.25\. Add --model.network.width 0.125 to"
    ) as raised:
        tiny(detector={"segmentation_checkpoint": str(plain[1])}, network={"width": 0.25}).on_fit_start()
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"Add --model.losses.adversarial true to the command"):
        tiny(detector={"segmentation_checkpoint": str(plain[1])}, losses={"adversarial": False}).on_fit_start()
    torch.save({"state_dict": {"model.weight": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"_checkpoint .*other.ckpt does not fit. Is it a checkpoint of AnoSeg\?"):
        tiny(detector={"segmentation_checkpoint": str(tmp_path / "other.ckpt")}).on_fit_start()


# ------------------------------------------------------------------------------------------------------- image score


def test_image_score_may_be_chosen_after_training(whole, module_data, tmp_path):
    model, _, _, kept = whole
    chosen = tiny(image_score="detector")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    engine = Engine(accelerator="cpu", devices=1, default_root_dir=tmp_path, **quiet)
    engine.test(chosen, datamodule=copy.deepcopy(module_data), ckpt_path=kept / "3.ckpt")
    loaded = AnoSeg.load_from_checkpoint(kept / "3.ckpt", image_score="detector", weights_only=True)
    image, other = torch.rand(2, 3, 64, 64), calibrations(model)["detector"]
    # Of the same weights, without a checkpoint; and in the same model, before or after.
    copied, switched = tiny(image_score="detector"), AnoSeg.load_from_checkpoint(kept / "3.ckpt", weights_only=True)
    copied.load_state_dict(model.state_dict())
    copied.post_processor.calibrated_on = model.post_processor.calibrated_on
    switched.image_score = "detector"
    for changed in (chosen, loaded, copied, switched):
        post_processor = changed.post_processor
        assert torch.equal(in_use(changed), other)
        assert equal(calibrations(changed), calibrations(model))
        assert torch.equal(post_processor.pixel_threshold, model.post_processor.pixel_threshold)
        assert post_processor.calibrated_on == "forged on held-out images"
        with torch.no_grad():
            network = changed.model.eval()
            assert torch.equal(network(image).pred_score, network.detector.score(image, network.predict_map(image)))
    same = AnoSeg.load_from_checkpoint(kept / "3.ckpt", weights_only=True)
    assert torch.equal(same.post_processor.image_threshold, model.post_processor.image_threshold)
    switched.image_score = "map"
    assert torch.equal(in_use(switched), in_use(model))
    assert in_use(model).isfinite().all() and other.isfinite().all()


def test_calibration_is_that_of_a_training_with_this_score(whole, module_data, tmp_path):
    model = tiny(image_score="detector")
    fit(model, module_data, tmp_path, whole[3] / "2.ckpt", max_epochs=EPOCHS)
    assert equal(weights(model), weights(whole[0]))
    assert equal(calibrations(model), calibrations(whole[0]))
    assert torch.equal(in_use(model), calibrations(whole[0])["detector"])
    assert torch.equal(in_use(whole[0]), calibrations(model)["map"])


def test_other_score_is_calibrated_as_the_one_in_use_is(module_data, tmp_path):
    augmenter, models = HardCutPaste(), [tiny(), tiny(image_score="detector")]
    for model in models:
        model.post_processor = SelfCalibratingPostProcessor(3, augmenter, forged_images=5, use_training_images=False)
        fit(model, module_data, tmp_path, max_epochs=1)
    assert torch.equal(calibrations(models[0])["detector"], in_use(models[1]))
    assert torch.equal(calibrations(models[1])["map"], in_use(models[0]))
    assert calibrations(models[0])["detector"].isfinite().all()


def test_networks_get_plain_tensors(tiny_data, tmp_path):
    # torchvision's subclass keeps torch.compile busy for ever on older versions.
    tiny_data.val_split_mode = type(tiny_data.val_split_mode)("same_as_test")
    model, seen = tiny(), []
    model.model.register_forward_pre_hook(lambda _, inputs: seen.append(type(inputs[0])))
    engine = fit(model, tiny_data, tmp_path)
    assert model.post_processor.calibrated_on == "anomalous images"
    assert calibrations(model)["detector"].isfinite().all()
    engine.test(model, datamodule=tiny_data)
    engine.predict(model, dataloaders=tiny_data.test_dataloader())
    assert set(seen) == {torch.Tensor}


def test_checkpoint_of_another_kind(plain, whole, module_data, tmp_path):
    def load(path, **arguments):
        engine = Engine(accelerator="cpu", default_root_dir=tmp_path, logger=False)
        engine.test(tiny(**arguments), datamodule=copy.deepcopy(module_data), ckpt_path=path)

    with pytest.raises(ValueError, match=r"Add --model.detector.enabled true to the command"):
        load(whole[3] / "3.ckpt", detector={"enabled": False})
    with pytest.raises(ValueError, match=r"Add --model.image_size '\[64, 64\]' to the command"):
        load(whole[3] / "3.ckpt", image_size=(128, 128))
    with pytest.raises(ValueError, match=r"Add --model.detector.enabled false to the command"):
        load(plain[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"detector": {"share": 0.0}}, "detector.share must lie within [0.01, 0.99], got 0.0"),
        ({"detector": {"share": 1.0}}, "detector.share must lie within"),
        ({"detector": {"beta": -0.1}}, "detector.beta must lie within"),
        ({"detector": {"feature_weight": -1.0}}, "detector.feature_weight must lie within"),
        ({"image_score": "mean"}, "image_score must be one of ('map', 'detector'), got 'mean'"),
        (
            {"image_score": "detector", "detector": {"enabled": False}},
            "image_score='detector' needs detector.enabled",
        ),
        (
            {"detector": {"segmentation_checkpoint": "a.ckpt", "enabled": False}},
            "detector.segmentation_checkpoint is for a training",
        ),
    ],
    ids=str,
)
def test_refuses_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        tiny(**arguments)


def test_refuses_to_divide_a_training_without_end(module_data, tmp_path):
    with pytest.raises(ValueError, match=r"has no end\. Set the trainer's max_epochs, max_steps or max_time"):
        fit(tiny(), module_data, tmp_path, max_epochs=-1)


# ---------------------------------------------------------------------------------------------------------- learning


def test_forged_images_score_higher_than_normal_ones(train_on_four, training_seed):
    """A map that still marks normal images would drown the detector's score, so the first stage must have converged.

    A plain segmentation does so within the steps that the detector then needs for itself.
    """
    model = tiny(
        network={"skip_connections": True},
        losses={"adversarial": False, "masked_reconstruction": False},
        patches={"area": (0.1, 0.2)},
        optimizer={"lr": 3e-3, "averaging": 0.8},
        seed=training_seed,
        post_processor=False,
    )
    image, forged, _ = train_on_four(model, max_steps=180)
    with torch.no_grad():
        model.eval().model.image_score = "detector"
        normal, anomalous = model.model(image).pred_score, model.model(forged).pred_score
    assert anomalous.min() > 2 * normal.max()
