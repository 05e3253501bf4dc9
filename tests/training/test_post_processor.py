"""Thresholds with and without bad parts."""

import copy
from itertools import starmap
from types import SimpleNamespace

import pytest
import torch
from anomalib.data import Folder, ImageBatch, InferenceBatch
from anomalib.engine import Engine
from anomalib.post_processing import PostProcessor
from lightning.pytorch import Trainer

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.models.ignored_region import IgnoredRegion
from anomalib_anoseg.training import calibration, held_out
from anomalib_anoseg.training import post_processor as post_processing
from anomalib_anoseg.training.post_processor import SelfCalibratingPostProcessor
from anomalib_anoseg.transforms import HardCutPaste

# As shipped: tests/conftest.py lowers it for all tests.
MAX_CALIBRATION_PIXELS = calibration.MAX_CALIBRATION_PIXELS


def fit(data, path, epochs=1, every=1, **arguments):
    model = AnoSeg(image_size=(64, 64), network={"width": 0.125}, visualizer=False, **arguments)
    engine = Engine(
        accelerator="cpu",
        default_root_dir=path,
        max_epochs=epochs,
        check_val_every_n_epoch=every,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    engine.fit(model, datamodule=data)
    return model


class Meter(torch.nn.Module):
    """A network that tells how much images were changed."""

    region = IgnoredRegion()

    def __init__(self, normal):
        super().__init__()
        self.normal = normal

    def forward(self, image):
        anomaly_map = (image - self.normal).abs().amax(1, keepdim=True)
        return InferenceBatch(anomaly_map=anomaly_map, pred_score=anomaly_map.amax((1, 2, 3)))


class Brightness(torch.nn.Module):
    """Scores that say nothing of anomalies, so that a threshold hangs on how many of the images are normal."""

    region = IgnoredRegion()

    def __init__(self, normal):
        super().__init__()
        del normal

    def forward(self, image):
        return InferenceBatch(anomaly_map=image.mean(1, keepdim=True), pred_score=image.mean((1, 2, 3)))


def calibrate(images, draws_of=100, meter=Meter, **arguments):
    model = AnoSeg(image_size=(64, 64), network={"width": 0.125}, **arguments)
    model.model, post_processor = meter(images), model.post_processor
    post_processor.calibrated_on = "forged on held-out images"
    post_processor._start(Trainer(logger=False, enable_checkpointing=False), draws_of)
    judge(model, images)
    return post_processor


def judge(model, images):
    """Let a model's post-processor do what it does with a batch of normal images and what was predicted for them."""
    trainer = Trainer(logger=False, enable_checkpointing=False)
    batch = ImageBatch(image=images).update(**model.model(images)._asdict())
    model.post_processor.on_validation_batch_end(trainer, model, batch)
    model.post_processor.on_validation_epoch_end(trainer, model)


def values(post_processor):
    names = ("_image_threshold", "_pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max")
    return torch.stack([getattr(post_processor, name) for name in names])


@pytest.fixture
def normal_only(tiny_root):
    def make(**split):
        sizes = {"train_batch_size": 3, "eval_batch_size": 3, "num_workers": 0, "seed": 0}
        root = tiny_root / "stripes" / "train"
        return Folder(name="parts", root=root, normal_dir="good", test_split_mode="none", **sizes, **split)

    return make


@pytest.mark.parametrize("scores_count", [True, False])
def test_image_scores_of_anomalies_for_maps_count_if_the_model_says_so(scores_count):
    """Where they do not, thresholds are those of either kind of anomalies alone."""
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = Meter(images)
    bold, faint = HardCutPaste(p=1.0, opacity=(0.9, 1.0)), HardCutPaste(p=1.0, opacity=(0.1, 0.2))

    def found(*augmenters, **options):
        anomalies, predict = calibration.CalibrationAnomalies(*augmenters, **options), calibration.predict
        normal = predict(network, images)
        batches = calibration.forge_and_predict(lambda image: predict(network, image), images, normal, anomalies, [3])
        thresholds = calibration.calibrate(batches)
        return thresholds.images[calibration.ONLY_SCORE].threshold.item(), thresholds.maps.threshold.item()

    image, pixel = found(bold, faint, scores_count=scores_count)
    assert pixel == found(faint)[1] < found(bold)[1]
    assert (image == found(bold)[0]) != scores_count
    assert found(faint)[0] <= image


def test_host_has_no_thresholds_without_bad_parts(normal_only, tmp_path):
    model = fit(normal_only(val_split_mode="same_as_test"), tmp_path, post_processor=PostProcessor())
    assert values(model.post_processor).isnan().all()


def test_held_out_normal_images_suffice(normal_only, tmp_path):
    model = fit(normal_only(val_split_mode="from_train", val_split_ratio=0.25), tmp_path)
    assert model.post_processor.calibrated_on == "forged on held-out images"
    assert values(model.post_processor).isfinite().all()
    assert model.post_processor.image_min < model.post_processor.image_max


def test_training_images_are_left_alone_until_a_later_validation(normal_only, tmp_path, monkeypatch):
    monkeypatch.setattr(post_processing.held_out, "some_images", lambda *_: pytest.fail("read in every epoch"))
    model = fit(normal_only(val_split_mode="from_train", val_split_ratio=0.25), tmp_path, epochs=2, every=10)
    assert model.post_processor.calibrated_on == "forged on held-out images"


@pytest.mark.parametrize(("split", "every"), [("same_as_test", 1), ("none", 1), ("none", 10)])
def test_training_images_are_the_last_resort_and_said_to_be(normal_only, tmp_path, split, every):
    with pytest.warns(UserWarning, match=r"forged on training images\. There were no validation images: hold some out"):
        model = fit(normal_only(val_split_mode=split), tmp_path, epochs=2, every=every)
    assert model.post_processor.calibrated_on == "forged on training images"
    assert model.post_processor.operating_points == []
    assert values(model.post_processor).isfinite().all()
    assert model.model.training
    assert list(tmp_path.rglob("model.ckpt"))


def test_training_images_are_taken_from_all_of_them():
    dataset = [SimpleNamespace(image=torch.full((1,), float(place)), image_path=None) for place in range(100)]
    images, _ = held_out.some_images(
        SimpleNamespace(dataset=dataset), SimpleNamespace(device="cpu", pre_processor=None)
    )
    assert len(images) == 64
    assert images.flatten().diff().unique().tolist() == [1, 2]
    assert images.max() > 97


def test_real_anomalies_are_used_as_anomalib_does(tiny_data, tmp_path):
    tiny_data.val_split_mode = type(tiny_data.val_split_mode)("same_as_test")
    ours = fit(copy.deepcopy(tiny_data), tmp_path / "ours")
    hosts = fit(copy.deepcopy(tiny_data), tmp_path / "hosts", post_processor=PostProcessor())
    assert ours.post_processor.calibrated_on == "anomalous images"
    assert torch.equal(values(ours.post_processor), values(hosts.post_processor))


def test_calibration_repeats(tiny_data, tmp_path):
    first, second = (fit(copy.deepcopy(tiny_data), tmp_path / name) for name in ("first", "second"))
    other = fit(
        copy.deepcopy(tiny_data), tmp_path / "other", post_processor=SelfCalibratingPostProcessor(calibration_seed=5)
    )
    assert torch.equal(values(first.post_processor), values(second.post_processor))
    assert not torch.equal(values(first.post_processor), values(other.post_processor))


def test_threshold_separates_what_the_map_separates(tiny_data):
    """A network that knows the answer gets a threshold between its two answers."""
    model = AnoSeg(image_size=(64, 64), network={"width": 0.125}, visualizer=False)

    tiny_data.setup()
    images = torch.stack([tiny_data.train_data[index].image for index in range(4)])

    class Oracle(torch.nn.Module):
        region = IgnoredRegion()

        def forward(self, image):
            changed = (image - images).abs().amax(1, keepdim=True) > 0
            anomaly_map = 0.2 + 0.6 * changed.float()
            return InferenceBatch(anomaly_map=anomaly_map, pred_score=anomaly_map.amax((1, 2, 3)))

    model.model = Oracle()
    post_processor = model.post_processor
    post_processor.calibrated_on = "forged on held-out images"
    judge(model, images)
    assert 0.2 < post_processor.pixel_threshold <= 0.8
    assert 0.2 < post_processor.image_threshold <= 0.8
    assert (post_processor.pixel_min.item(), post_processor.pixel_max.item()) == pytest.approx((0.2, 0.8))


@pytest.fixture
def taken(monkeypatch):
    """What calibrations were found on, batch by batch."""
    found, calibrate = [], calibration.calibrate
    monkeypatch.setattr(post_processing, "calibrate", lambda batches: found.extend(batches) or calibrate(batches))
    return found


@pytest.fixture
def predicted(monkeypatch):
    """Images that were predicted for calibrations, batch by batch."""
    images, predict = [], calibration.predict
    monkeypatch.setattr(post_processing, "predict", lambda net, image: images.append(image) or predict(net, image))
    return images


@pytest.fixture
def as_many_as_asked(monkeypatch):
    monkeypatch.setattr(calibration, "MAX_CALIBRATION_PIXELS", MAX_CALIBRATION_PIXELS)


class Recorder(HardCutPaste):
    """A generator that remembers what it forged."""

    def __init__(self):
        super().__init__()
        self.forged = []

    def forge(self, image, generator=None, paths=None):
        made = super().forge(image, generator=generator, paths=paths)
        self.forged.append(made.image)
        return made


@pytest.mark.usefixtures("as_many_as_asked")
@pytest.mark.parametrize(
    "split", [{"val_split_mode": "from_train", "val_split_ratio": 0.25}, {"val_split_mode": "same_as_test"}]
)
def test_on_few_images_anomalies_are_forged_several_times(normal_only, tmp_path, taken, predicted, split):
    data = normal_only(**split)
    data.eval_batch_size = 1
    augmenter, is_held_out = Recorder(), "val_split_ratio" in split
    images = 2 if is_held_out else 8  # of the folder's eight
    post_processor = SelfCalibratingPostProcessor(augmenter=augmenter, forged_images=3 * images)
    fit(data, tmp_path, post_processor=post_processor)
    last = slice(-3 * images if is_held_out else -3, None)  # batches of one, or of all
    forged = torch.cat(augmenter.forged[last])
    assert len(forged) == 3 * images
    assert all(not torch.equal(one, other) for index, one in enumerate(forged) for other in forged[:index])
    assert torch.equal(torch.cat(predicted[last]), forged)
    assert all(not batch.label[: len(batch.label) // 2].any() for batch in taken[last])


@pytest.mark.usefixtures("as_many_as_asked")
def test_more_normal_images_than_are_looked_at_are_not_counted():
    assert [count_draws(images) for images in (1, 64, 200)] == [200, 4, 4]


@pytest.mark.usefixtures("as_many_as_asked")
def test_large_images_are_forged_on_less_often_but_always_once():
    assert [count_draws(64, side) for side in (64, 128, 256, 512, 1024)] == [4, 4, 2, 1, 1]


def count_draws(images, side=32):
    post_processor = SelfCalibratingPostProcessor(forged_images=200)
    post_processor._start(Trainer(logger=False, enable_checkpointing=False), images)
    return calibration.count_draws(post_processor._wanted, post_processor._images, (side, side))


@pytest.mark.usefixtures("as_many_as_asked")
def test_a_training_that_goes_on_is_calibrated_on_fewer_anomalies(normal_only, tmp_path):
    data = normal_only(val_split_mode="from_train", val_split_ratio=0.25)
    augmenter = Recorder()
    fit(data, tmp_path, post_processor=SelfCalibratingPostProcessor(augmenter=augmenter, forged_images=24), epochs=2)
    before, after_one_epoch, after_both = 20, 20, 24
    assert [len(forged) for forged in augmenter.forged] == [2] * ((before + after_one_epoch + after_both) // 2)


def test_several_draws_find_both_thresholds(tiny_data):
    tiny_data.setup()
    images = torch.stack([tiny_data.train_data[index].image for index in range(4)])
    arguments = {"patches": {"opacity": (0.9, 1.0)}, "calibration": {"opacity": (0.2, 0.3)}}
    once, several = calibrate(images, **arguments), calibrate(images, draws_of=1, **arguments)
    assert not torch.equal(values(once), values(several))
    assert several.pixel_threshold < several.image_threshold


@pytest.mark.parametrize("forged_images", [0, 10_001])
def test_number_of_forged_images_is_checked(forged_images):
    with pytest.raises(ValueError, match=rf"forged_images must lie within \[1, 10000\], got {forged_images}"):
        SelfCalibratingPostProcessor(forged_images=forged_images)


def test_pixel_threshold_is_found_on_faint_anomalies_and_image_threshold_on_bold_ones_too(tiny_data, taken, predicted):
    tiny_data.setup()
    images = torch.stack([tiny_data.train_data[index].image for index in range(4)])
    bold, faint = calibrate(images, patches={"opacity": (0.9, 1.0)}), calibrate(images, patches={"opacity": (0.2, 0.3)})
    both = calibrate(images, patches={"opacity": (0.9, 1.0)}, calibration={"opacity": (0.2, 0.3)})
    assert both.pixel_threshold == faint.pixel_threshold < bold.pixel_threshold
    assert both.pixel_max == faint.pixel_max < bold.pixel_max
    assert both.image_threshold == faint.image_threshold < bold.image_threshold
    assert both.image_max == bold.image_max > faint.image_max
    assert all(starmap(torch.equal, zip(predicted[2:], predicted[:2], strict=True)))
    of_bold, of_faint, first, second = taken
    assert torch.equal(first.prediction.scores["only"], of_bold.prediction.scores["only"])
    assert first.prediction.anomaly_map is None
    assert first.mask is None
    assert torch.equal(second.prediction.scores["only"], of_faint.prediction.scores["only"])
    assert torch.equal(second.prediction.anomaly_map, of_faint.prediction.anomaly_map)


def test_an_augmenter_that_is_given_finds_both_thresholds(tiny_data):
    tiny_data.setup()
    images = torch.stack([tiny_data.train_data[index].image for index in range(4)])
    one, other = (
        calibrate(images, post_processor=SelfCalibratingPostProcessor(augmenter=HardCutPaste()), **arguments)
        for arguments in ({}, {"calibration": {"opacity": (0.2, 0.3)}})
    )
    assert torch.equal(values(one), values(other))


def test_where_nothing_faint_is_visible_bold_anomalies_find_the_thresholds():
    # Grey levels are 10 apart: of what is pasted with a weight of 0.15, no pixel changes by more than 3.
    images = 0.5 + torch.randint(2, (4, 1, 64, 64)).expand(-1, 3, -1, -1) * 10 / 255
    arguments = {"patches": {"mark": "changed", "hard": False, "rotation_p": 0.0}, "meter": Brightness}
    bold = calibrate(images, **arguments)
    faint = calibrate(images, calibration={"opacity": (0.15, 0.15)}, **arguments)
    assert torch.equal(values(bold), values(faint))
    assert bold.pixel_threshold > 0


def test_what_is_forged_without_a_trace_is_not_one_more_normal_image(taken):
    images = torch.linspace(0.3, 0.7, 8).view(-1, 1, 1, 1).expand(-1, 3, 64, 64) + torch.rand(8, 1, 64, 64) / 10
    images[:6] = images[:6].mean((1, 2, 3), keepdim=True)  # nothing to see where a patch of the same is pasted
    patches = {"hard": False, "mark": "changed"}
    calibrate(images, meter=Brightness, calibration={"opacity": (0.5, 0.5)}, patches=patches)
    _, of_maps = taken
    scores, anomaly_map = of_maps.prediction.scores["only"], of_maps.prediction.anomaly_map
    assert of_maps.label.tolist() == [False] * 2 + [True] * 2
    assert torch.equal(anomaly_map[:2], images[6:].mean(1)), "the last two, whose maps are themselves"
    assert len(scores) == len(anomaly_map) == 4


def test_settings_survive_a_checkpoint():
    first, second = (
        SelfCalibratingPostProcessor(calibration_seed=3, forged_images=7, pixel_sensitivity=0.7),
        SelfCalibratingPostProcessor(),
    )
    first.calibrated_on = "forged on held-out images"
    second.load_checkpoint_config(first.checkpoint_config())
    assert (second.calibration_seed, second.forged_images, second.pixel_sensitivity) == (3, 7, 0.7)
    assert second.calibrated_on == "forged on held-out images"


def test_other_models_keep_anomalibs_calibration():
    from types import SimpleNamespace

    post_processor, loader = (
        SelfCalibratingPostProcessor(),
        SimpleNamespace(dataset=SimpleNamespace(has_anomalous=False)),
    )
    post_processor.on_validation_epoch_start(SimpleNamespace(val_dataloaders=loader), torch.nn.Linear(1, 1))
    assert post_processor.calibrated_on == "anomalous images"


def test_scores_beyond_the_calibration_keep_their_order():
    post_processor = SelfCalibratingPostProcessor()
    calibrated = {"_image_threshold": 2.0, "image_min": 1.0, "image_max": 3.0}
    for name, value in calibrated.items():
        for kind in (name, name.replace("image", "pixel")):
            getattr(post_processor, kind).copy_(torch.tensor(value))
    scores = torch.tensor([-100.0, -3.0, 0.0, 1.5, 2.0, 2.5, 4.0, 30.0, 100.0])
    host = PostProcessor._normalize(scores, *map(torch.tensor, (1.0, 3.0, 2.0)))
    output = post_processor(InferenceBatch(pred_score=scores, anomaly_map=scores.view(-1, 1, 1, 1)))
    for values_ in (output.pred_score, output.anomaly_map.flatten()):
        assert (values_.diff() > 0).all()
        assert 0 < values_[0] < values_[-1] < 1
        torch.testing.assert_close(values_[3:6], host[3:6])
    assert torch.equal(output.pred_label, scores > 2)
    assert (host[:3] == 0).all(), "anomalib no longer cuts scores off: its own normalisation will do"


def test_scores_of_nothing_calibrated_stay():
    post_processor = SelfCalibratingPostProcessor()
    scores = torch.tensor([-3.0, 3.0])
    output = post_processor(InferenceBatch(pred_score=scores, anomaly_map=scores.view(-1, 1, 1, 1)))
    assert torch.equal(output.pred_score, scores)


@pytest.mark.parametrize(
    "arguments", [{}, {"calibration": {"opacity": (0.2, 0.5)}}, {"detector": {"enabled": True}}], ids=str
)
def test_no_image_is_predicted_twice(normal_only, tmp_path, arguments):
    """Two normal images are validated before, after one and after the other epoch; the rest are forged ones."""
    data = normal_only(val_split_mode="from_train", val_split_ratio=0.25)
    model = AnoSeg(
        image_size=(64, 64), network={"width": 0.125}, optimizer={"averaging": 0.0}, visualizer=False, **arguments
    )
    model.post_processor.forged_images = 6
    networks = [model.model.segmenter, *([model.model.detector.encoder] if model.model.detector else [])]
    passes = [[] for _ in networks]
    for network, images in zip(networks, passes, strict=True):
        network.register_forward_pre_hook(
            lambda _, inputs, images=images: None if model.trainer.training else images.append(len(inputs[0]))
        )
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    Engine(accelerator="cpu", default_root_dir=tmp_path, max_epochs=2, **quiet).fit(model, datamodule=data)
    kinds = 2 if "calibration" in arguments else 1
    assert [sum(images) for images in passes] == [3 * (2 + 6 * kinds)] * len(passes)


@pytest.mark.parametrize("spoil", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_not_finite_give_no_threshold(spoil):
    label, maps = torch.tensor([False, True, False, True]), torch.rand(4, 8, 8)
    scores = {"map": torch.rand(4), "detector": torch.tensor([0.1, 0.9, spoil, 0.8])}
    batch = calibration.Labelled(calibration.Prediction(scores, maps), label, maps > 0.5)
    with pytest.warns(
        UserWarning, match=r"^Threshold and range of image scores are NaN, because some image scores"
    ) as w:
        found = calibration.calibrate([batch])
    assert len(w) == 1
    assert torch.stack(found.images["detector"]).isnan().all()
    for finite in (found.images["map"], found.maps):
        assert torch.stack(finite).isfinite().all()


# ------------------------------------------------------------------------------------------------------- declarations


class Mistaken(AnoSeg):
    """A model whose declaration fails."""

    @property
    def calibration_anomalies(self):
        return self.no_such_attribute


def test_an_error_in_a_declaration_is_no_lack_of_one():
    """Taken for a model that declares nothing, it would be calibrated as anomalib does, without defects."""
    model = Mistaken(image_size=(64, 64), network={"width": 0.05})
    with pytest.raises(AttributeError, match="calibration_anomalies"):
        model.post_processor._find_anomalies(model)


def test_a_model_that_declares_nothing_is_calibrated_as_anomalib_does():
    assert SelfCalibratingPostProcessor()._find_anomalies(torch.nn.Identity()) is None
