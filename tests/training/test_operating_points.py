"""False alarm rates: what they promise, from which pictures, and that checkpoints keep them."""

import copy

import numpy as np
import pytest
import torch
from anomalib.data import Folder, ImageBatch
from anomalib.engine import Engine
from anomalib.post_processing import PostProcessor
from lightning.pytorch import Trainer
from scipy.stats import beta

from anomalib_anoseg import SGSF, AnoSeg
from anomalib_anoseg.common.appearance import PROPERTIES, grey_of, measure, summarize
from anomalib_anoseg.common.picture_files import read_picture
from anomalib_anoseg.models.ignored_region import IgnoredRegion
from anomalib_anoseg.training import calibration, operating_tables
from anomalib_anoseg.training import operating_points as points
from anomalib_anoseg.training import post_processor as post_processing
from anomalib_anoseg.training.good_scores import GoodScores
from anomalib_anoseg.training.post_processor import SelfCalibratingPostProcessor

TINY = {"image_size": (64, 64), "network": {"width": 0.125}}
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.mark.parametrize(("rate", "images"), [(0.05, 20), (0.1, 20), (0.01, 120), (0.2, 4)])
def test_new_pictures_exceed_a_threshold_as_often_as_promised(rate, images):
    """Scores are uniform, so that the true rate of a threshold is what is left above it."""
    scores = torch.rand(4000, images, generator=torch.Generator().manual_seed(0)).double()
    true = 1 - torch.stack([points.find_threshold(each, rate) for each in scores])
    error = true.std() / len(true) ** 0.5
    assert rate - 1 / (images + 1) - 4 * error < true.mean() < rate + 4 * error
    low, high = points.find_interval(points.count_alarms(rate, images), images)
    assert ((low <= true) & (true <= high)).float().mean() > points.CONFIDENCE


def test_equal_scores_raise_no_more_alarms_than_promised():
    scores = torch.tensor([0.0] * 50 + [1.0] * 49)
    table = points.tabulate(points.GoodScores({"only": scores}), {"only": torch.ones(1)})["only"]
    row = points.find_row(table, 0.1)
    assert not (scores > row[points.IMAGE]).any()
    point = points.read_row(row, 0.5, 0.5)
    assert point.interval == (0.0, pytest.approx(points.find_interval(9, 99)[1]))


@pytest.mark.parametrize(("alarms", "images"), [(0, 20), (3, 99), (20, 381)])
def test_intervals_are_those_of_clopper_and_pearson(alarms, images):
    low, high = points.find_interval(alarms, images)
    assert low == pytest.approx(beta.ppf(0.025, alarms, images - alarms + 1) if alarms else 0)
    assert high == pytest.approx(beta.ppf(0.975, alarms + 1, images - alarms))


def test_numbers_of_pictures_fit_each_other():
    for rate in (*points.RATES, 0.013, 1 / 3, 0.07):
        needed, sure = points.count_needed(rate), points.count_sure(rate)
        assert points.count_alarms(rate, needed) == 0
        assert points.count_alarms(rate, needed - 1) == -1
        assert points.find_interval(0, sure)[1] <= rate < points.find_interval(0, sure - 1)[1]
    for images in range(1, 400):
        smallest = points.find_smallest_rate(images)
        assert points.count_alarms(smallest, images) == 0
        assert 1 / (images + 1) <= smallest * (1 + 1e-9) < 1.1 / (images + 1)


def test_a_rate_of_many_digits_means_the_same_everywhere():
    """Tables keep six digits: 1/41 is then a little less, and needs a picture more."""
    with pytest.raises(ValueError, match="needs 41 good pictures"):
        points.check_supported(1 / 41, 40)
    for rate, images in ((1 / 41, 41), (4 / 300, 299), (4 / 300, 300)):
        table = points.tabulate(points.GoodScores({"only": torch.arange(float(images))}), {"only": torch.ones(1)}, rate)
        row = points.find_row(table["only"], rate)
        point, alarms = points.read_row(row, 0.5, 0.5), int(row[points.ABOVE])
        assert point.interval == points.find_interval(alarms, images)
        assert alarms == points.count_alarms(rate, images)


@pytest.mark.parametrize("spoil", [torch.nan, torch.inf])
def test_scores_that_are_not_finite_have_no_table(spoil):
    good = points.GoodScores({"bad": torch.tensor([spoil, *range(9)]), "good": torch.arange(10.0)}, torch.arange(10.0))
    assert list(points.tabulate(good, dict.fromkeys(good.images, torch.ones(1)))) == ["good"]


# ------------------------------------------------------------------------------------------ which pictures are counted


class Grey(torch.nn.Module):
    """A network whose scores and maps are the pictures' grey levels."""

    region = IgnoredRegion()

    def forward(self, image):
        return calibration.ImageBatch(image=image, pred_score=image.mean((1, 2, 3)), anomaly_map=image.mean(1))


def validate(batches, **arguments):
    """Let a model's post-processor see batches of pictures, with labels if there are any."""
    model = AnoSeg(**TINY, post_processor=SelfCalibratingPostProcessor(forged_images=8, **arguments))
    model.model, trainer = Grey(), Trainer(logger=False, enable_checkpointing=False)
    post_processor = model.post_processor
    is_real = any(batch.gt_label is not None for batch in batches)
    post_processor.calibrated_on = "anomalous images" if is_real else "forged on held-out images"
    post_processor._start(trainer, sum(len(batch.image) for batch in batches))
    for batch in batches:
        predicted = model.model(batch.image)
        batch.update(pred_score=predicted.pred_score, anomaly_map=predicted.anomaly_map)
        post_processor.on_validation_batch_end(trainer, model, batch)
    post_processor.on_validation_epoch_end(trainer, model)
    return post_processor


def greys(levels):
    """Pictures of one grey level each, but for a pixel of 0.9 in the first."""
    images = torch.as_tensor(levels, dtype=torch.float32).view(-1, 1, 1, 1).repeat(1, 3, 64, 64)
    images[0, :, 5, 5] = 0.9
    return images


def test_all_held_out_pictures_count_once(monkeypatch):
    forged, predict = [], calibration.predict
    monkeypatch.setattr(post_processing, "predict", lambda net, image: forged.append(len(image)) or predict(net, image))
    levels = torch.linspace(0.1, 0.5, 99)  # the brightest come last
    batches = [ImageBatch(image=greys(part)) for part in levels.split(30)]
    for batch in batches[1:]:
        batch.image[0] = batch.image[0, :, :1, :1]
    post_processor = validate(batches, false_alarm_rate=0.02)
    assert forged == [30, 30, 4], "of the first 64, no more"
    assert post_processor.appearance["good_images"] == 99
    row = points.find_row(post_processor.operating.tables["only"], 0.02)
    assert row[points.IMAGES] == 99
    assert post_processor.image_threshold == pytest.approx(levels[-2].item(), abs=1e-6), "one may lie above it"
    # A pixel of 0.9 marks the first; one may be marked, so the threshold is the brightest of the others.
    assert post_processor.pixel_threshold == pytest.approx(levels[-1].item(), abs=1e-6)
    point = next(point for point in post_processor.operating_points if point.interval == points.find_interval(1, 99))
    assert (point.image_score, point.pixel_score, point.good_images) == (0.5, 0.5, 99)


def test_a_picture_that_two_processes_see_counts_once(monkeypatch):
    """Lightning hands out some pictures twice, so that all processes get equally many."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    theirs = iter([torch.tensor([0.5, 0.1]), torch.tensor([0.6, 0.2]), digests("c.png", "a.png")])  # and no anomalous
    monkeypatch.setattr(operating_tables, "gather_all_tensors", lambda own: [own, next(theirs) if len(own) else own])
    tables = operating_tables.OperatingTables()
    maps = torch.tensor([0.2, 0.4]).view(2, 1, 1)
    tables.add(calibration.Prediction({"only": torch.tensor([0.1, 0.3])}, maps), ["a.png", "b.png"])
    assert tables.compute([]) == 3
    row = tables.tables["only"][0]
    assert row[[points.IMAGE, points.PIXEL, points.IMAGES]].tolist() == pytest.approx([0.5, 0.6, 3])


def digests(*paths):
    return GoodScores.of(calibration.Prediction({"only": torch.zeros(len(paths))}), paths).files


@pytest.mark.parametrize("is_real", [True, False])
def test_a_file_that_comes_twice_counts_once(is_real):
    batch = ImageBatch(
        image=greys([0.1, 0.2, 0.3, 0.1, 0.8]),
        image_path=[f"{name}.png" for name in "abcax"],
        gt_label=torch.tensor([False] * 4 + [True]) if is_real else None,
    )
    post_processor = validate([batch])
    table = post_processor.operating.tables["only"]
    assert set(table[:, points.IMAGES].tolist()) == {3 if is_real else 4}
    assert post_processor.appearance["good_images"] == (3 if is_real else 4)
    # Of the levels 0.1 to 0.3, and 0.8 of what may be no good picture; one pixel of the first is brighter.
    assert post_processor.appearance["grey"] == pytest.approx(
        255 * np.array([0.1, 0.2, 0.3] if is_real else [0.1, 0.25, 0.8]), rel=0.01
    )


def test_with_real_defects_the_table_says_how_many_are_found():
    levels, label = (
        [*torch.linspace(0.1, 0.3, 19).tolist(), 0.25, 0.4, 0.5, 0.6],
        torch.tensor([False] * 19 + [True] * 4),
    )
    batch = ImageBatch(image=greys(levels), gt_label=label, gt_mask=label.view(-1, 1, 1).expand(-1, 64, 64))
    post_processor = validate([batch])
    first = post_processor.operating_points[0]
    assert (first.false_alarm_rate, first.good_images, first.found) == (0.05, 19, 0.75)
    assert post_processor.threshold_rate is None


def test_too_few_pictures_that_nobody_knew_of_before_are_refused():
    with pytest.raises(ValueError, match=r"false_alarm_rate 0.05 needs 19 good pictures that are held out, .* are 18"):
        validate([ImageBatch(image=greys(torch.linspace(0.1, 0.5, 18)))], false_alarm_rate=0.05)


# --------------------------------------------------------------------------------------------------------- whole models


def folder(tiny_root, **split):
    sizes = {"train_batch_size": 3, "eval_batch_size": 3, "num_workers": 0, "seed": 0}
    split = {"val_split_mode": "from_train", "val_split_ratio": 0.5} | split
    root = tiny_root / "stripes" / "train"
    return Folder(name="parts", root=root, normal_dir="good", test_split_mode="none", **sizes, **split)


def fit(model, parts, place):
    Engine(default_root_dir=place, max_epochs=1, **QUIET).fit(model, datamodule=parts)
    return next(place.rglob("model.ckpt"))


@pytest.fixture(scope="module")
def trained(tiny_root, tmp_path_factory):
    """A model that was trained for a rate, its data, and its checkpoint."""
    model, parts = AnoSeg(**TINY, calibration={"false_alarm_rate": 0.4}, visualizer=False), folder(tiny_root)
    return model, parts, fit(model, parts, tmp_path_factory.mktemp("trained"))


def load(path, **arguments):
    return AnoSeg.load_from_checkpoint(path, weights_only=True, **arguments).post_processor


def test_a_rate_holds_on_held_out_pictures(trained):
    model, parts, _ = trained
    batches = Trainer(**QUIET, enable_checkpointing=False).predict(model, parts.val_dataloader())
    labels, masks = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("pred_label", "pred_mask"))
    assert labels.sum() == masks.flatten(1).any(1).sum() == 1, "of four, because two of five new ones may be"


def test_held_out_pictures_are_described_as_their_files_look(trained):
    model, parts, _ = trained
    looks = [measure(grey_of(read_picture(path), (64, 64))[None])[0] for path in parts.val_data.samples.image_path]
    found, expected = model.post_processor.appearance, summarize(np.stack(looks), (64, 64))
    assert found.keys() == expected.keys()
    assert (found["size"], found["good_images"], found["outside"]) == ([64, 64], 4, 1)
    for name in PROPERTIES:
        assert found[name] == pytest.approx(expected[name], rel=1e-3)


def test_operating_points_survive_a_checkpoint_and_thresholds_may_move(trained):
    model, _, path = trained
    loaded, expected = load(path), model.post_processor.operating_points
    assert [point.false_alarm_rate for point in expected] == [0.2, 0.4]
    np.testing.assert_equal(loaded.operating_points, expected)
    assert loaded.appearance == model.post_processor.appearance
    assert (loaded.threshold_rate, loaded.image_threshold) == (0.4, model.post_processor.image_threshold)
    moved, table = load(path, calibration={"false_alarm_rate": 0.2}), loaded.operating.tables["map"]
    assert (moved.image_threshold, moved.pixel_threshold) == (table[0, points.IMAGE], table[0, points.PIXEL])
    assert moved.image_threshold > loaded.image_threshold
    with pytest.raises(ValueError, match=r"false_alarm_rate 0.3 is none of the rates .*, which has 0.2, 0.4\. Give"):
        load(path, calibration={"false_alarm_rate": 0.3})


def test_checkpoints_of_before_load(trained, tmp_path):
    content = torch.load(trained[2], weights_only=True)
    state = {name: value for name, value in content["state_dict"].items() if ".operating." not in name}
    assert len(state) < len(content["state_dict"])
    content["state_dict"] = state
    del content["anomalib_post_processor_config"]["threshold_rate"]
    del content["anomalib_post_processor_config"]["appearance"], content["hyper_parameters"]["calibration"]
    del content["anomalib_anoseg_digests"]
    torch.save(content, tmp_path / "old.ckpt")
    old = load(tmp_path / "old.ckpt")
    assert (old.operating_points, old.appearance) == ([], {})


@pytest.mark.parametrize(
    ("split", "problem"),
    [
        ({"val_split_ratio": 0.25}, r"needs 4 .* and there are 2: .*between 0 and 84 % .*ratio 0.5\), or give 0.34 or"),
        ({"val_split_mode": "none"}, r"needs 4 .* and there are none\. Hold some out \(--data.val_split_mode from"),
        ({"val_split_mode": "same_as_test"}, r"needs 4 .* and there are none\. Hold some out"),
    ],
)
def test_a_rate_without_the_pictures_is_refused_before_the_training(split, problem, tiny_root, tmp_path):
    model = AnoSeg(**TINY, calibration={"false_alarm_rate": 0.2}, visualizer=False)
    model.training_step = lambda *_: pytest.fail("a training step was taken")
    with pytest.raises(ValueError, match=problem):
        fit(model, folder(tiny_root, **split), tmp_path)


def test_sgsf_takes_a_rate():
    model = SGSF(**TINY, calibration={"false_alarm_rate": 0.1})
    assert [model.post_processor.false_alarm_rate, model.hparams["calibration"]["false_alarm_rate"]] == [0.1, 0.1]


def test_rates_are_checked():
    with pytest.raises(ValueError, match=r"calibration.false_alarm_rate must lie within \[0.0001, 0.5\], got 0.6"):
        AnoSeg(**TINY, calibration={"false_alarm_rate": 0.6})
    with pytest.raises(ValueError, match=r"false_alarm_rate needs the default post_processor, got PostProcessor"):
        SGSF(**TINY, calibration={"false_alarm_rate": 0.1}, post_processor=PostProcessor())
    with pytest.raises(ValueError, match=r"false_alarm_rate must lie within"):
        SelfCalibratingPostProcessor(false_alarm_rate=0.0)


def test_a_copy_has_the_tables():
    post_processor = validate([ImageBatch(image=greys(torch.linspace(0.1, 0.5, 19)))])
    assert copy.deepcopy(post_processor).operating_points == post_processor.operating_points != []
