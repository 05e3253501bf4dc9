"""AnoSeg as anomalib and Lightning see it: arguments, optimisation, reproducibility, resuming."""

import copy
import re
import warnings

import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.engine import Engine
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins import MixedPrecision
from PIL import Image
from torch import nn
from torch.optim import SGD

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.common.presets import merge
from anomalib_anoseg.models.anoseg import stages
from anomalib_anoseg.models.anoseg.torch_model import AnoSegModel
from anomalib_anoseg.transforms import (
    BatchTextures,
    CutPaste,
    HardCutPaste,
    NoiseTextures,
    OneOf,
    PatternTextures,
    SaliencyPerlin,
    TextureFolder,
)

FROZEN = {"frozen": True, "coordinates": False}


def tiny(**arguments):
    small = {"image_size": (64, 64), "network": {"width": 0.125}, "visualizer": False}
    return AnoSeg(**merge(small, arguments))


def fit(model, data, path, ckpt_path=None, **trainer):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    engine = Engine(accelerator="cpu", default_root_dir=path, **({"max_epochs": 1} | quiet | trainer))
    engine.fit(model, datamodule=copy.deepcopy(data), ckpt_path=ckpt_path)
    return engine


def equal_weights(first, second):
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    # Thresholds are NaN before the first calibration.
    return all(name == other and torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for (name, a), (other, b) in pairs)


def test_defaults_are_the_published_settings():
    model = AnoSeg()
    assert model.image_size == (256, 256)
    assert model.pre_processor.transform.transforms[0].size == [256, 256]
    assert isinstance(model.augmenter, HardCutPaste)
    assert model.learning_type == LearningType.ONE_CLASS
    assert model.trainer_arguments == {}
    assert (model.stages.settings.lr, model.stages.settings.betas) == (2e-4, (0.5, 0.999))


def test_length_is_the_users_unless_the_model_was_given_one():
    assert tiny(max_epochs=7).trainer_arguments == {"max_epochs": 7}


def test_hard_augmentation_is_a_switch():
    assert type(tiny(patches={"hard": False}).augmenter) is CutPaste


def test_a_share_of_the_images_gets_noise_in_place_of_patches_where_these_would_lie():
    model = tiny(noise={"share": 0.25}, patches={"saliency": "border_contrast"})
    model.augmenter.forge(torch.rand(8, 3, 64, 64))
    assert sorted(model.augmenter._params["kind"].tolist()) == [0] * 6 + [1] * 2
    patches, noise = model.augmenter.kinds
    assert (type(patches), type(noise)) == (HardCutPaste, SaliencyPerlin)
    assert patches.saliency is noise.saliency
    assert (noise.p, noise.flags["rotation_p"], noise.flags["mark"]) == (1.0, 0.0, "noise")
    assert tiny(noise={"share": 0.25, "mark": "changed"}).augmenter.kinds[1].flags["mark"] == "changed"
    assert type(tiny(noise={"share": 0}).augmenter) is HardCutPaste


@pytest.mark.parametrize(
    ("perlin_textures", "kind"),
    [("batch", BatchTextures), ("noise", NoiseTextures), ("patterns", PatternTextures), ("pictures", TextureFolder)],
)
def test_what_shows_through_noise_is_a_choice(perlin_textures, kind):
    textures = tiny(noise={"share": 0.5, "textures": perlin_textures}).augmenter.kinds[1].textures
    assert type(textures) is kind
    assert kind is not TextureFolder or str(textures.root) == perlin_textures


def test_patches_and_noise_train_and_calibrate_together(tiny_data, tmp_path):
    model = tiny(noise={"share": 0.5}, calibration={"opacity": (0.2, 0.3)}, patches={"saliency": "border_contrast"})
    engine = fit(model, tiny_data, tmp_path)
    again = AnoSeg.load_from_checkpoint(engine.trainer.checkpoint_callback.best_model_path, visualizer=False)
    assert isinstance(again.augmenter, OneOf)
    assert again.post_processor.pixel_threshold.isfinite()
    assert torch.load(model.to_torch(tmp_path), weights_only=False)["model"].augmenter is None


def test_maps_are_calibrated_on_fainter_patches_and_fainter_noise():
    model = tiny(noise={"share": 0.25}, calibration={"opacity": (0.1, 0.2), "area": (0.01, 0.02)})
    augmenter = model.calibration_anomalies.map
    patches, noise = augmenter.kinds
    assert (type(patches), type(noise)) == (HardCutPaste, SaliencyPerlin)
    assert patches.flags["opacity"] == noise.flags["opacity"] == (0.1, 0.2)
    assert patches.flags["area"] == (0.01, 0.02)
    assert noise.flags.keys() == model.augmenter.kinds[1].flags.keys()
    assert augmenter.flags["weights"] == (0.75, 0.25)
    learned, learned_noise = model.augmenter.kinds
    assert (learned.flags["opacity"], learned_noise.flags["opacity"]) == ((1.0, 1.0), (0.1, 1.0))
    assert model.calibration_anomalies.image is model.augmenter
    assert tiny(noise={"share": 0.5}).calibration_anomalies.map is None


def test_channels_last_is_a_switch():
    def is_channels_last(model):
        return model.model.segmenter.decoder.stages[0][0].weight.is_contiguous(memory_format=torch.channels_last)

    assert is_channels_last(tiny())
    assert not is_channels_last(tiny(network={"channels_last": False}))


def test_seed_fixes_the_initial_weights_and_leaves_the_global_stream_alone():
    before = torch.get_rng_state()
    first, same, other = tiny(seed=1), tiny(seed=1), tiny(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert equal_weights(first, same)
    assert not equal_weights(first, other)


def test_two_fits_give_equal_weights(tiny_data, tmp_path):
    first, second, other = tiny(seed=3), tiny(seed=3), tiny(seed=4)
    fit(first, tiny_data, tmp_path / "first", max_epochs=2)
    torch.manual_seed(99)
    fit(second, tiny_data, tmp_path / "second", max_epochs=2)
    fit(other, tiny_data, tmp_path / "other", max_epochs=2)
    assert equal_weights(first, second)
    assert not equal_weights(first, other)


class Kill(Callback):
    """Ends the process in the midst of an epoch, as far as the trainer can tell."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_start(self, trainer, *args):
        del args
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("killed")


def test_resumed_run_ends_where_an_uninterrupted_one_does(tiny_data, tmp_path):
    whole, resumed = tiny(), tiny()
    fit(whole, tiny_data, tmp_path / "whole", max_epochs=3)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tiny(), tiny_data, tmp_path / "killed", max_epochs=3, callbacks=[Kill(epoch=2)])
    (checkpoint,) = (tmp_path / "killed").rglob("*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 1, "at most one epoch may be lost"
    engine = fit(resumed, tiny_data, tmp_path / "resumed", max_epochs=3, ckpt_path=checkpoint)
    assert engine.trainer.current_epoch == 3
    assert equal_weights(whole, resumed)


def test_checkpoint_restores_model_and_settings(tiny_data, tmp_path):
    model = tiny(patches={"area": (0.01, 0.05)})
    fit(model, tiny_data, tmp_path)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    restored = AnoSeg.load_from_checkpoint(checkpoint, weights_only=True)
    assert equal_weights(model, restored)
    assert restored.augmenter.flags["area"] == (0.01, 0.05)
    image = torch.rand(2, 3, 64, 64)
    for one, other in zip(model.eval()(image), restored.eval()(image), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "switches",
    [
        {"losses": {"adversarial": False}},
        {"losses": {"masked_reconstruction": False}},
        {"losses": {"adversarial": False, "masked_reconstruction": False}},
        {"encoder": {"coordinates": False}},
        {"patches": {"hard": False}},
        {"optimizer": {"averaging": 0.0}},
        {"losses": {"segmentation": "l1"}},
        {"losses": {"segmentation": "cross_entropy"}},
        {"seed": None},
        {"network": {"compile": True}, "encoder": {**FROZEN, "pre_trained": True}},
    ],
    ids=str,
)
def test_every_switch_trains(switches, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(AnoSegModel, "compile", lambda model: nn.Module.compile(model, backend="aot_eager"))
    monkeypatch.setattr(AnoSegModel, "load_pretrained", lambda *_: None)
    model = tiny(**switches)
    before = copy.deepcopy(model.model.segmenter.state_dict())
    fit(model, tiny_data, tmp_path, limit_train_batches=1)
    check_trained(before, model, is_frozen=switches.get("encoder", {}).get("frozen", False))


def check_trained(before, model, is_frozen):
    after = model.model.segmenter.state_dict()
    assert not torch.equal(before["decoder.stages.0.0.weight"], after["decoder.stages.0.0.weight"])
    is_same = all(torch.equal(values, before[name]) for name, values in after.items() if name.startswith("encoder."))
    assert is_same == is_frozen
    assert all(values.isfinite().all() for values in after.values())


def test_compiled_networks_are_tested_after_training(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(AnoSegModel, "compile", lambda model: nn.Module.compile(model, backend="aot_eager"))
    model, data = tiny(network={"compile": True}), copy.deepcopy(tiny_data)
    before = copy.deepcopy(model.model.segmenter.state_dict())
    engine = Engine(accelerator="cpu", default_root_dir=tmp_path, logger=False, max_epochs=1, limit_train_batches=1)
    engine.fit(model, datamodule=data)
    check_trained(before, model, is_frozen=False)
    assert engine.test(model, datamodule=data)[0]["pixel_AUROC"] > 0


def test_accumulated_batches_make_one_step(tiny_data, tmp_path):
    engine = fit(tiny(optimizer={"accumulate_grad_batches": 2}), tiny_data, tmp_path, max_epochs=2)
    # Two batches an epoch, one step of each of the two optimisers an epoch.
    assert engine.trainer.global_step == 4


def test_accumulation_adds_up_to_the_gradient_of_the_whole(tiny_data):
    class Recorder(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            del trainer, pl_module
            self.gradients = [p.grad.clone() for group in optimizer.param_groups for p in group["params"]]

    norms = []
    for count in (1, 2):
        recorder = Recorder()
        model = tiny(
            optimizer={"accumulate_grad_batches": count, "averaging": 0.0, "lr": 1e-8}, losses={"adversarial": False}
        )
        trainer = Trainer(
            accelerator="cpu",
            max_steps=1,
            callbacks=[recorder],
            logger=False,
            barebones=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )
        trainer.fit(model, datamodule=copy.deepcopy(tiny_data))
        norms.append(sum(gradient.norm() ** 2 for gradient in recorder.gradients).sqrt())
    # The mean of two batches' gradients is neither their sum nor one of them.
    assert 0.3 < norms[1] / norms[0] < 1.2


def test_gradients_are_clipped(tiny_data, tmp_path):
    norms = []

    def record(optimizer, *args):
        del args
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())

    class Recorder(Callback):
        def on_train_start(self, trainer, pl_module):
            del pl_module
            for optimizer in trainer.optimizers:
                optimizer.register_step_post_hook(record)

    fit(tiny(optimizer={"gradient_clip_val": 0.5}), tiny_data, tmp_path, callbacks=[Recorder()])
    assert len(norms) == 4
    assert max(norms) <= 0.5 + 1e-4


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision(precision, tiny_data, tmp_path):
    # Lightning turns 16-mixed into bf16-mixed on a CPU unless it is given the plug-in itself.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8) if precision == "16-mixed" else None
    model = tiny(optimizer={"gradient_clip_val": 1.0})
    before = copy.deepcopy(model.model.segmenter.state_dict())
    fit(model, tiny_data, tmp_path, plugins=[MixedPrecision(precision, "cpu", scaler)])
    after = model.model.segmenter.state_dict()
    assert all(values.isfinite().all() for values in after.values())
    assert not torch.equal(before["decoder.stages.0.0.weight"], after["decoder.stages.0.0.weight"])
    assert {values.dtype for values in after.values()} <= {torch.float32, torch.int64}


def test_training_step_makes_no_host_synchronisation(tiny_data, tmp_path, count_operations, monkeypatch):
    # Adam counts its steps in tensors on the host, wherever the weights are: reading those waits for no device.
    monkeypatch.setattr(stages, "Adam", lambda parameters, lr, betas: SGD(parameters, lr, betas[0]))
    model, counts = tiny(), []
    step = model.training_step

    def counted(*args):
        with count_operations() as counter:
            step(*args)
        counts.append((counter.operations > 100, counter.synchronisations))

    monkeypatch.setattr(model, "training_step", counted)
    fit(model, tiny_data, tmp_path)
    assert counts == [(True, 0), (True, 0)]


def test_losses_are_logged(tiny_data, tmp_path):
    engine = fit(tiny(), tiny_data, tmp_path)
    names = ("segmentation", "reconstruction", "adversarial", "discriminator")
    assert {f"train_{name}_loss" for name in names} | {"train_loss"} <= set(engine.trainer.callback_metrics)


@pytest.mark.parametrize(
    ("arguments", "trainer", "steps"),
    [
        ({}, {"max_epochs": 6}, 12),
        ({"optimizer": {"accumulate_grad_batches": 2}}, {"max_epochs": 6}, 6),
        ({}, {"max_epochs": -1, "max_steps": 10}, 5),
        ({"losses": {"adversarial": False}}, {"max_epochs": -1, "max_steps": 10}, 10),
        ({}, {"max_epochs": 6, "max_steps": 20}, 10),
    ],
    ids=str,
)
def test_schedule_knows_the_length(arguments, trainer, steps, tiny_data, tmp_path):
    class Stop(Callback):
        def on_train_start(self, trainer, pl_module):
            del pl_module
            decays = [config.scheduler.lr_lambdas[0] for config in trainer.lr_scheduler_configs]
            self.totals = [next(step for step in range(100) if decay(step) == 0) for decay in decays]
            trainer.should_stop = True

    stop = Stop()
    fit(tiny(**arguments), tiny_data, tmp_path, callbacks=[stop], limit_train_batches=2, **trainer)
    assert set(stop.totals) == {steps}


@pytest.mark.parametrize("network", [{"skip_connections": True}, {"decoder": "light"}])
def test_overfits_four_images(network, train_on_four, training_seed):
    learning = {"lr": 2e-3, "averaging": 0.9}
    model = tiny(seed=training_seed, optimizer=learning, network=network, post_processor=False)
    _, forged, mask = train_on_four(model, max_steps=150)
    with torch.no_grad():
        anomaly_map = model.eval().model(forged).anomaly_map
    found = anomaly_map > 0.5
    iou = (found & (mask == 1)).sum() / (found | (mask == 1)).sum()
    assert iou > 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": (32, 64)}, "image_size must be (height, width) of 64 pixels or more each, got (32, 64)"),
        ({"image_size": (64,)}, "image_size must be (height, width)"),
        ({"network": {"width": 0.0}}, "network.width must lie within [0.05, 4.0], got 0.0"),
        ({"network": {"decoder": "small"}}, "network.decoder must be one of ('published', 'light'), got 'small'"),
        ({"optimizer": {"lr": 0.0}}, "optimizer.lr must lie within"),
        ({"optimizer": {"lr_decay_start": 1.5}}, "optimizer.lr_decay_start must lie within [0.0, 1.0], got 1.5"),
        ({"optimizer": {"averaging": 1.0}}, "optimizer.averaging must lie within"),
        ({"network": {"score_window": 4}}, "network.score_window must be an odd number of pixels, 1 or more, got 4"),
        ({"optimizer": {"accumulate_grad_batches": 0}}, "optimizer.accumulate_grad_batches must be 1 or more, got 0"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
        ({"max_epochs": 0}, "max_epochs must be 1 or more, -1 for no end, or null for the trainer's, got 0"),
        ({"max_epochs": -2}, "max_epochs must be 1 or more"),
        ({"patches": {"hard_p": 1.5}}, "patches.hard_p must lie within"),
        ({"patches": {"jitter": (0.5, 0.5, 0.5, 0.6)}}, "patches.jitter (hue) must lie within [0.0, 0.5], got 0.6"),
        ({"patches": {"area": (0.3, 0.2)}}, "patches.area must lie within"),
        ({"patches": {"aspect": (0.3, 99.0)}}, "patches.aspect must lie within"),
        ({"patches": {"rotation": 200.0}}, "patches.rotation must lie within"),
        ({"patches": {"rotation_p": 2.0}}, "patches.rotation_p must lie within"),
        ({"patches": {"count": 0}}, "patches.count must lie within"),
        ({"patches": {"opacity": (0.0, 1.0)}}, "patches.opacity must lie within"),
        ({"noise": {"share": 1.5}}, "noise.share must lie within [0.0, 1.0], got 1.5"),
        ({"calibration": {"area": (0.3, 0.2)}}, "calibration.area must lie within"),
        ({"calibration": {"opacity": (0.0, 1.0)}}, "calibration.opacity must lie within"),
        ({"noise": {"share": 0.5, "mark": "edge"}}, "noise.mark must be one of ('noise', 'changed'), got 'edge'"),
        ({"patches": {"mark": "edge"}}, "patches.mark must be 'patch' or 'changed', got 'edge'"),
        ({"losses": {"segmentation": "dice"}}, "losses.segmentation must be one of"),
        (
            {"losses": {"segmentation_weight": -1.0}},
            "losses.segmentation_weight must lie within",
        ),
    ],
    ids=str,
)
def test_refuses_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        tiny(**arguments)


def test_pretrained_weights_are_loaded_once(tiny_data, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(AnoSegModel, "load_pretrained", lambda _, weights=None: loaded.append(weights))
    model = tiny(encoder={"pre_trained": "weights.pth"})
    engine = fit(model, tiny_data, tmp_path)
    assert loaded == ["weights.pth"]
    fit(model, tiny_data, tmp_path)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    fit(tiny(encoder={"pre_trained": "weights.pth"}), tiny_data, tmp_path, tmp_path / "model.ckpt", max_epochs=2)
    fit(AnoSeg.load_from_checkpoint(tmp_path / "model.ckpt", visualizer=False), tiny_data, tmp_path)
    given = tiny(encoder={"pre_trained": "weights.pth"})
    given.load_state_dict(model.state_dict())
    given.on_fit_start()
    assert loaded == ["weights.pth"]
    fit(tiny(encoder={"pre_trained": True}), tiny_data, tmp_path)
    assert loaded == ["weights.pth", None]


def test_a_frozen_encoder_keeps_its_pretrained_weights(tiny_data, tmp_path, monkeypatch, recwarn):
    knowing = tiny(encoder={**FROZEN, "pre_trained": True}, seed=5).model.segmenter.encoder.state_dict()
    for name in (name for name in knowing if "running" in name):
        knowing[name].fill_(0.5)  # as after a training

    def load_pretrained(model, weights=None):
        del weights
        model.segmenter.encoder.load_state_dict(knowing)
        model.averaged.set(model.segmenter)

    monkeypatch.setattr(AnoSegModel, "load_pretrained", load_pretrained)
    model = tiny(encoder={**FROZEN, "pre_trained": True})
    decoder = copy.deepcopy(model.model.segmenter.decoder)
    engine = fit(model, tiny_data, tmp_path)
    for segmenter in (model.model.segmenter, model.model.averaged.module):
        assert all(torch.equal(value, knowing[name]) for name, value in segmenter.encoder.state_dict().items())
        assert not equal_weights(segmenter.decoder, decoder)
    assert not [warning for warning in recwarn if "in eval mode" in str(warning.message)]
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    fit(tiny(encoder={**FROZEN, "pre_trained": True}), tiny_data, tmp_path, tmp_path / "model.ckpt", max_epochs=2)


def test_older_checkpoint_is_told_from_the_light_decoder(tiny_data, tmp_path):
    fit(tiny(network={"skip_connections": True}), tiny_data, tmp_path, limit_train_batches=1)
    (path,) = tmp_path.rglob("*.ckpt")
    checkpoint = torch.load(path, weights_only=False)
    del checkpoint["hyper_parameters"]["network"]["decoder"]  # 0.1.0 had no such setting
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"was trained with .*network.decoder=published, but .*network.decoder=light"):
        fit(tiny(network={"decoder": "light"}), tiny_data, tmp_path, ckpt_path=path)
    fit(tiny(network={"skip_connections": True}), tiny_data, tmp_path, ckpt_path=path, max_epochs=2)


@pytest.mark.parametrize("was_frozen", [False, True])
def test_resuming_needs_the_same_choice_of_what_learns(was_frozen, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(AnoSegModel, "load_pretrained", lambda *_: None)
    shared = {"coordinates": False, "pre_trained": True}
    engine = fit(tiny(encoder={**shared, "frozen": was_frozen}), tiny_data, tmp_path)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=f"Add --model.encoder.frozen {str(was_frozen).lower()} to the command"):
        fit(
            tiny(encoder={**shared, "frozen": not was_frozen}),
            tiny_data,
            tmp_path,
            tmp_path / "model.ckpt",
            max_epochs=2,
        )


@pytest.mark.parametrize("encoder", [{"coordinates": False}, {"pre_trained": True}])
def test_an_encoder_that_knows_nothing_cannot_be_frozen(encoder):
    with pytest.raises(
        ValueError, match=r"frozen=True needs encoder.pre_trained, or .* and encoder.coordinates=False, or"
    ):
        tiny(encoder={"frozen": True, **encoder})


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "model.ckpt"
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.strategy.connect(tiny(network={"skip_connections": True}))
    trainer.save_checkpoint(path, weights_only=True)
    return path


def test_checkpoint_of_another_shape(small_checkpoint, tiny_data, tmp_path):
    with pytest.raises(
        ValueError, match=r"width=0.125, but .*width=0.25\. Add --model.network.width 0.125 to"
    ) as raised:
        Engine(accelerator="cpu", default_root_dir=tmp_path, logger=False).test(
            tiny(network={"width": 0.25, "skip_connections": True}), datamodule=tiny_data, ckpt_path=small_checkpoint
        )
    assert "\n" not in str(raised.value)
    options = "--model.network.skip_connections true --model.optimizer.averaging 0.99 to the command"
    with pytest.raises(ValueError, match=rf"^The checkpoint .* Add {options}\.$"):
        fit(tiny(optimizer={"averaging": 0.0, "lr": 1.0}), tiny_data, tmp_path, small_checkpoint)


def test_arguments_that_do_not_shape_the_networks_may_differ(small_checkpoint):
    model = AnoSeg.load_from_checkpoint(small_checkpoint, optimizer={"averaging": 0.5, "lr": 1.0}, image_size=(96, 96))
    assert (model.stages.settings.lr, model.image_size) == (1.0, (96, 96))


def test_weights_that_do_not_fit_for_another_reason_keep_the_error():
    model = tiny()
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({})
    assert model.load_state_dict({}, strict=False).missing_keys


def test_refuses_small_images_where_it_first_sees_them(tiny_data, tmp_path):
    model = tiny(pre_processor=False)
    tiny_data.augmentations = None
    from torchvision.transforms.v2 import Resize

    tiny_data.train_augmentations = tiny_data.val_augmentations = Resize((48, 48))
    with pytest.raises(ValueError, match="sides of 64 pixels or more"):
        fit(model, tiny_data, tmp_path)


def test_no_warnings_of_our_own(tiny_data, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tiny(), tiny_data, tmp_path)
    assert not [str(warning.message) for warning in caught if "anomalib_anoseg" in str(warning.filename)]
    assert not [str(warning.message) for warning in caught if "eval mode" in str(warning.message)]


def test_folder_of_maps_serves_training_and_both_calibrations_and_is_not_exported(
    tiny_data, tiny_root, tmp_path, monkeypatch
):
    # Maps of the top rows: anomalies lie there, and so do those that thresholds are found on.
    (tmp_path / "maps").mkdir()
    for picture in (tiny_root / "stripes" / "train" / "good").iterdir():
        saliency = np.zeros((64, 64), np.uint8)
        saliency[:16] = 255
        Image.fromarray(saliency).save(tmp_path / "maps" / picture.name)
    small = {"area": (0.001, 0.01), "aspect": (1.0, 1.0)}
    model = tiny(patches={"saliency": str(tmp_path / "maps"), **small}, calibration={"opacity": (0.2, 0.3)})
    model.post_processor.forged_images = 1
    forged, forge = [], CutPaste.forge
    monkeypatch.setattr(CutPaste, "forge", lambda *args, **named: forged.append(forge(*args, **named)) or forged[-1])
    fit(model, tiny_data, tmp_path)
    assert model.post_processor.pixel_threshold.isfinite()
    assert len(forged) == 6  # of two batches in training, and of one for each threshold before and after it
    marked = torch.cat([made.mask for made in forged])
    assert marked[..., :20, :].any()
    assert not marked[..., 20:, :].any()
    path = model.to_torch(tmp_path)
    assert torch.load(path, weights_only=False)["model"].augmenter is None
    assert model.augmenter.saliency.root == tmp_path / "maps"
