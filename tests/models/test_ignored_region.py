"""What lies in an ignored region has no influence: on training, thresholds, scores, maps and metrics."""

import json
import re
from functools import partial

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.engine import Engine
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.v2 import Resize

from anomalib_anoseg import SGSF, AnoSeg
from anomalib_anoseg.deploy.description import describe
from anomalib_anoseg.models.ignored_region import FILL, IgnoredRegion, read_region
from anomalib_anoseg.training.post_processor import SelfCalibratingPostProcessor
from anomalib_anoseg.training.seeding import seeded_weights
from anomalib_anoseg.transforms import HardCutPaste

SIDE = 64
CORNER = torch.zeros(SIDE, SIDE, dtype=torch.bool)
CORNER[:24, :40] = True
SMALL = {"width": 0.125, "score_window": 5}


def anoseg(**arguments):
    return AnoSeg((SIDE, SIDE), network=SMALL, **arguments)


def with_detector(**arguments):
    return anoseg(detector={"enabled": True}, image_score="detector", **arguments)


def by_references(**arguments):
    return SGSF((SIDE, SIDE), network=SMALL, extractor={"name": "test_resnet"}, **arguments)


def by_patches(**arguments):
    extractor = {"name": "test_efficientnet", "weights": True}
    bank = {"vectors": 64}
    return SGSF((SIDE, SIDE), network=SMALL, guidance={"kind": "patches"}, extractor=extractor, bank=bank, **arguments)


def ready(make):
    """A model with references, if it needs some, and weights whose map varies."""
    model, images = make(), torch.randint(256, (4, 3, SIDE, SIDE), dtype=torch.uint8, generator=seeded(5))
    networks = model.model
    networks.region.take(CORNER, (SIDE, SIDE))
    images = (networks.region.mask_images(images / 255) * 255).round().to(torch.uint8)
    with seeded_weights(0):
        for module in networks.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
    guide = {by_references: [images.roll(1, 0) / 255], by_patches: [torch.arange(4)]}.get(make, [])
    if make is by_references:
        networks.fill_bank(images, networks.embed(images / 255))
    elif make is by_patches:
        networks.fill_memory(images, *guide)
    with torch.no_grad():
        networks.train()(images / 255, *guide)
    networks.update_average(images / 255, *guide, step=1)
    networks.prepare_for_evaluation()
    return model.eval()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


MODELS = [anoseg, with_detector, by_references, by_patches]


@pytest.fixture(scope="module", params=MODELS, ids=lambda make: make.__name__)
def model(request):
    return ready(request.param)


def test_pictures_that_differ_in_the_region_get_one_result(model):
    image = torch.rand(2, 3, SIDE, SIDE, generator=seeded(0))
    other = torch.where(CORNER, torch.rand(image.shape, generator=seeded(1)), image)
    with torch.no_grad():
        first, second = model.model(image), model.model(other)
        scores = [
            model.model.other_scores(one, first.anomaly_map) for one in (image, other) if isinstance(model, AnoSeg)
        ]
    assert torch.equal(first.anomaly_map, second.anomaly_map)
    assert torch.equal(first.pred_score, second.pred_score)
    assert len(scores) == 0 or all(torch.equal(scores[0][name], scores[1][name]) for name in scores[0])
    assert not first.anomaly_map[..., CORNER].any()
    assert first.anomaly_map[..., ~CORNER].std() > 0.01


def test_the_check_above_would_see_an_influence(model, monkeypatch):
    image = torch.rand(2, 3, SIDE, SIDE, generator=seeded(0))
    other = torch.where(CORNER, torch.rand(image.shape, generator=seeded(1)), image)
    monkeypatch.setattr(IgnoredRegion, "mask_images", lambda _, image: image)
    with torch.no_grad():
        assert not torch.equal(model.model(image).anomaly_map, model.model(other).anomaly_map)


def test_what_networks_say_of_the_region_does_not_reach_the_score(model, monkeypatch):
    """Nonsense is painted into the map, where the region is, before anything else happens to it."""
    image = torch.rand(2, 3, SIDE, SIDE, generator=seeded(0))
    with torch.no_grad():
        expected = model.model(image)
    mask_maps = IgnoredRegion.mask_maps

    def spoil(region, anomaly_map):
        nonsense = torch.rand(anomaly_map.shape, generator=seeded(2))
        return mask_maps(region, torch.where(CORNER, nonsense, anomaly_map))

    monkeypatch.setattr(IgnoredRegion, "mask_maps", spoil)
    with torch.no_grad():
        found = model.model(image)
    assert torch.equal(found.pred_score, expected.pred_score)
    assert torch.equal(found.anomaly_map, expected.anomaly_map)


@pytest.mark.parametrize("size", [(120, 160), (50, 40)])
def test_nothing_in_the_region_is_marked_in_the_map_of_the_pictures_size(tmp_path, size):
    mask = np.zeros(size, np.uint8)
    mask[7:19, 5:11] = mask[-3:, -1:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    model = AnoSeg((64, 96), network=SMALL, ignore_mask=tmp_path / "mask.png")
    assert read_region(model) == size[::-1]
    marked = model.model.region.mask_maps(torch.ones(1, 1, 64, 96))
    for antialias in (False, True):
        resized = F.interpolate(marked, size, mode="bilinear", antialias=antialias)[0, 0]
        assert resized[torch.from_numpy(mask > 0)].max() < 1e-4
    # No more than a pixel of the map around it is lost.
    reach = [2 * max(1, math) + 1 for math in (-(-size[0] // 64), -(-size[1] // 96))]
    grown = F.max_pool2d(torch.from_numpy(mask)[None].float(), reach, 1, [side // 2 for side in reach])[0] > 0
    seen = Resize((64, 96), antialias=True)(grown.float().expand(3, -1, -1))[0] > 0
    assert not (model.model.region.ignored & ~seen).any()


def test_a_calibration_with_anomalies_of_its_own_forges_none_there(model):
    post_processor = SelfCalibratingPostProcessor(augmenter=HardCutPaste(hard_p=1.0))
    mask = post_processor._find_anomalies(model).image.manual_seed(0).forge(torch.rand(8, 3, SIDE, SIDE)).mask
    assert mask.any()
    assert not mask[..., CORNER].any()


def training_inputs(model, image):
    """What a training step with fixed random numbers gives to networks and losses."""
    torch.manual_seed(0)
    if isinstance(model, AnoSeg):
        return model._forge_views(image, None)
    model.training_step(ImageBatch(image=image), 0)
    return (model._seen[0],)


@pytest.mark.parametrize("make", [anoseg, lambda **arguments: by_references(guidance={"kind": "none"}, **arguments)])
def test_what_lies_in_the_region_does_not_reach_a_training_step(make):
    image = torch.rand(8, 3, SIDE, SIDE, generator=seeded(0))
    other = torch.where(CORNER, 1 - image, image)
    model = make(seed=None)
    without = training_inputs(model, image)[0], training_inputs(model, other)[0]
    assert not torch.equal(without[0][..., ~CORNER], without[1][..., ~CORNER])  # this check sees an influence
    model.model.region.take(CORNER, (SIDE, SIDE))
    for first, second in zip(training_inputs(model, image), training_inputs(model, other), strict=True):
        assert torch.equal(first, second)


def test_the_record_of_a_file_names_the_region(model):
    found = describe(model).ignore_mask
    assert found["share"] == pytest.approx(24 * 40 / SIDE**2, abs=1e-4)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", found["digest"])


def test_a_model_without_a_mask_has_the_weights_that_it_had():
    assert not [name for make in MODELS for name in make().state_dict() if "region" in name]


def test_a_mask_that_leaves_nothing_is_refused(tmp_path):
    stripes = np.zeros((640, 640), np.uint8)
    stripes[::5] = 255
    Image.fromarray(stripes).save(tmp_path / "mask.png")
    with pytest.raises(
        ValueError, match=r"^ignore_mask: at the 64 x 64 pixels .*mask\.png leaves nothing to inspect\."
    ):
        read_region(anoseg(ignore_mask=tmp_path / "mask.png"))


def test_images_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match=r"^ignore_mask covers images of 64x64 pixels, got 96x64\. Let pre_processor"):
        model.model(torch.rand(1, 3, 96, 64))


def test_true_defects_in_the_region_are_good_unless_they_shall_count(model):
    """Three images: the only defect is inside, one lies half outside, and one is anomalous without a mask."""
    mask = torch.zeros(3, SIDE, SIDE, dtype=torch.bool)
    mask[0, :10, :10] = mask[1, 20:30, :10] = True
    for step, counts, is_ignored in (
        ("test_step", False, True),
        ("test_step", True, False),
        ("validation_step", True, True),
    ):
        model.count_ignored = counts
        batch = ImageBatch(
            image=torch.rand(3, 3, SIDE, SIDE), gt_mask=mask.clone(), gt_label=torch.ones(3, dtype=torch.bool)
        )
        with torch.no_grad():
            batch = getattr(model, step)(batch, 0)
        assert batch.gt_label.tolist() == [not is_ignored, True, True]
        assert torch.equal(batch.gt_mask.bool(), mask & ~CORNER if is_ignored else mask)
    model.count_ignored = False


@pytest.fixture(scope="module")
def mask_file(tmp_path_factory):
    """Polygons around the left half of the tiny set's pictures, of twice their size."""
    path = tmp_path_factory.mktemp("mask") / "left.json"
    path.write_text(json.dumps({"size": [128, 128], "polygons": [[[0, 0], [62, 0], [62, 127], [0, 127]]]}))
    return path


LEFT = torch.arange(64).expand(64, 64) < 32


def make_engine(folder):
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    return Engine(max_epochs=1, accelerator="cpu", devices=1, default_root_dir=folder, **quiet)


@pytest.fixture(scope="module", params=[anoseg, by_references], ids=lambda make: make.__name__)
def trained(request, module_data, mask_file, tmp_path_factory):
    """A short training: the model's class, the arguments of its loss, what the calibration saw, and the checkpoint."""
    losses, calibrated, folder = [], [], tmp_path_factory.mktemp("trained")
    model = request.param(ignore_mask=mask_file, visualizer=False)
    loss, post_processor = model.loss.forward, model.post_processor
    model.loss.forward = lambda *args: losses.append(args) or loss(*args)
    finish = post_processor.on_validation_epoch_end
    post_processor.on_validation_epoch_end = lambda *args: calibrated.extend(post_processor._batches) or finish(*args)
    engine = make_engine(folder)
    engine.fit(model, datamodule=module_data)
    engine.trainer.save_checkpoint(folder / "model.ckpt", weights_only=True)
    return request.param, model, losses, calibrated, folder / "model.ckpt"


def test_nothing_is_forged_there_in_training_and_calibration(trained):
    make, model, losses, calibrated, _ = trained
    assert torch.equal(model.model.region.ignored, LEFT)
    for args in losses:
        mask, *seen = (args[3], args[2]) if make is anoseg else (args[1], args[3])
        assert make is by_references or not mask[..., LEFT].any()  # which rotates images
        assert (seen[0][..., LEFT] == FILL).all()
    assert any(batch.mask.any() for batch in calibrated)
    for batch in calibrated:
        assert not batch.mask[:, LEFT].any()
        assert not batch.prediction.anomaly_map[:, LEFT].any()
        assert torch.equal(batch.label, batch.mask.flatten(1).any(1))


def test_a_checkpoint_brings_its_region(trained, module_data, tmp_path):
    make, model, *_, checkpoint = trained
    loaded = type(model).load_from_checkpoint(checkpoint, weights_only=True, map_location="cpu")
    assert loaded.model.region.record() == model.model.region.record()
    assert loaded.model.region.record()["share"] == pytest.approx(0.5)
    tested, without = make(visualizer=False), make_engine(tmp_path)
    figures = without.test(tested, datamodule=module_data, ckpt_path=checkpoint)
    assert torch.equal(tested.model.region.ignored, LEFT)
    assert figures == without.test(model, datamodule=module_data)


def test_another_region_is_refused_and_the_same_is_not(trained, module_data, tmp_path):
    make, _, *_, checkpoint = trained
    pixels = np.zeros((128, 128), np.uint8)
    pixels[:, :63] = 255
    Image.fromarray(pixels).save(tmp_path / "same.png")
    Image.fromarray(255 - pixels).save(tmp_path / "other.png")
    engine = make_engine(tmp_path)
    engine.test(make(ignore_mask=tmp_path / "same.png", visualizer=False), datamodule=module_data, ckpt_path=checkpoint)
    for name, verb in (("other.png", "test"), ("other.png", "fit")):
        named = re.escape(str(tmp_path / name))
        with pytest.raises(ValueError, match=f"trained with another ignore_mask, and this model has {named}. Leave"):
            getattr(engine, verb)(make(ignore_mask=tmp_path / name), datamodule=module_data, ckpt_path=checkpoint)


def test_a_checkpoint_without_a_region_takes_none(mask_file):
    without, model = anoseg(), anoseg(ignore_mask=mask_file)
    with pytest.raises(ValueError, match="The checkpoint was trained without an ignore_mask, and this model has"):
        model.on_load_checkpoint({"state_dict": without.state_dict(), "hyper_parameters": dict(without.hparams)})


def test_a_checkpoint_may_be_loaded_with_its_own_region_alone(trained, tmp_path):
    _, model, *_, checkpoint = trained
    for name, mask in (("same.png", LEFT), ("other.png", ~LEFT)):
        Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(tmp_path / name)
    load = partial(type(model).load_from_checkpoint, checkpoint, weights_only=True, map_location="cpu")
    assert torch.equal(load(ignore_mask=tmp_path / "same.png").model.region.ignored, LEFT)
    with pytest.raises(ValueError, match=r"trained with another ignore_mask, and this model has .*other\.png\. Leave"):
        load(ignore_mask=tmp_path / "other.png")
    assert torch.equal(load().model.region.ignored, LEFT)


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_a_region_that_is_loaded_lies_where_the_networks_are():
    model, saved = anoseg().to("meta"), anoseg()
    saved.model.region.take(CORNER, (SIDE, SIDE))
    model.load_state_dict(saved.state_dict(), assign=False)
    assert {tensor.device.type for tensor in model.model.state_dict().values()} == {"meta"}
    assert "region.ignored" in model.model.state_dict()


def test_the_file_of_a_checkpoints_region_may_be_gone():
    model, saved = anoseg(ignore_mask="gone.png"), anoseg(ignore_mask="gone.png")
    saved.model.region.take(CORNER, (SIDE, SIDE))
    checkpoint = {"state_dict": saved.state_dict(), "hyper_parameters": dict(saved.hparams)}
    saved.on_save_checkpoint(checkpoint)
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(saved.state_dict())
    assert torch.equal(model.model.region.ignored, CORNER)


def test_a_mask_of_another_shape_stops_each_verb(trained, module_data, tmp_path):
    make, *_, checkpoint = trained
    Image.fromarray(np.tri(64, 96, dtype=np.uint8) * 255).save(tmp_path / "wide.png")
    with pytest.raises(
        ValueError, match=r"^ignore_mask has 96 x 64 pixels, but .*\.png has 64 x 64\. Draw the mask on"
    ):
        make_engine(tmp_path).fit(make(ignore_mask=tmp_path / "wide.png"), datamodule=module_data)
    Image.new("RGB", (96, 64)).save(tmp_path / "0.png")
    (tmp_path / "wide.png").unlink()
    with pytest.raises(ValueError, match=r"^ignore_mask has 128 x 128 pixels, but .*0\.png has 96 x 64\."):
        make_engine(tmp_path).predict(make(), data_path=tmp_path / "0.png", ckpt_path=checkpoint)
