"""The demonstration data: honest masks, separate test pixels, the same bytes every time, and no network."""

import random
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import AnomalibDataModule, MVTecAD
from anomalib.data.utils import ValSplitMode
from PIL import Image

from anomalib_anoseg.data import DemoTextures, demo_textures, surfaces
from anomalib_anoseg.data.defects import DEFECTS, SMALLEST_SPECK, VISIBLE, mark_changes
from anomalib_anoseg.data.demo_textures import DEFECT_AREA, IMAGE_SIZES, render
from anomalib_anoseg.data.surfaces import MAX_ROTATION, MAX_ZOOM, SURFACES

TINY = {"image_size": 64, "num_train": 10, "num_test_good": 3, "num_test_per_defect": 2}
DRAWN = [(category, defect) for category, surface in SURFACES.items() for defect in surface.defects]


def tiny(root: Path, **settings) -> DemoTextures:
    return DemoTextures(root, **(TINY | settings))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DemoTextures:
    module = tiny(tmp_path_factory.mktemp("cache"))
    module.setup()
    return module


# ----------------------------------------------------------------------------------------------------- the pictures


@pytest.mark.parametrize(("category", "defect"), DRAWN)
@pytest.mark.parametrize("size", [64, 128])
def test_mask_marks_exactly_the_changed_pixels(category, defect, size, monkeypatch):
    pairs = []

    def record(before, after):
        changed, mask = mark_changes(before, after)
        pairs.append((before, changed))
        return changed, mask

    monkeypatch.setattr(demo_textures, "mark_changes", record)
    with_defect, mask = render(category, "test", defect, 1, size=size, seed=3)
    before, changed = pairs[-1]
    np.testing.assert_array_equal(mask, (np.abs(changed - before) > VISIBLE / 255).any(axis=-1))
    np.testing.assert_array_equal(changed[~mask], before[~mask])
    assert DEFECT_AREA[0] <= mask.mean() <= DEFECT_AREA[1]

    monkeypatch.setattr(demo_textures, "mark_changes", lambda before, after: (before, mark_changes(before, after)[1]))
    without, same_mask = render(category, "test", defect, 1, size=size, seed=3)
    np.testing.assert_array_equal(mask, same_mask)
    differs = (with_defect != without).any(axis=-1)
    assert not differs[~mask].any()
    assert differs[mask].mean() > 0.95  # rounding to 8 bits after noise can hide a change in a few pixels


def test_specks_are_undone_and_not_marked():
    after = np.zeros((32, 32, 3))
    after[2, 2 : 2 + SMALLEST_SPECK - 1] = 0.5
    after[20, 2 : 2 + SMALLEST_SPECK] = 0.5
    changed, mask = mark_changes(np.zeros_like(after), after)
    assert mask.sum() == SMALLEST_SPECK
    assert mask[20].any()
    assert not changed[2].any()


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_stay_in_range_and_leave_their_input_alone(defect):
    surface = np.random.default_rng(0).random((64, 64, 3))
    copy = surface.copy()
    for seed in range(10):
        drawn = DEFECTS[defect](surface, np.random.default_rng(seed), 1.7)
        assert drawn.shape == surface.shape
        assert drawn.min() >= 0
        assert drawn.max() <= 1
    np.testing.assert_array_equal(surface, copy)


def test_training_and_test_pictures_share_no_pixel(monkeypatch):
    # a photograph whose training columns are 0.25 and whose test columns are 0.75: any exchange would show
    photograph = np.full((500, 500), 0.25)
    photograph[:, round(surfaces.TRAIN_COLUMNS * 500) :] = 0.75
    monkeypatch.setattr(surfaces, "_photograph", lambda _: photograph)
    surfaces._region.cache_clear()
    for seed in range(20):
        for split, value in (("train", 0.25), ("test", 0.75)):
            crop = SURFACES["brick"].crop(split, 128, np.random.default_rng(seed))
            np.testing.assert_allclose(crop, value, rtol=0, atol=1e-9)
    surfaces._region.cache_clear()


@pytest.mark.parametrize("category", SURFACES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_largest_picture_fits(category, split):
    region = surfaces._region(SURFACES[category].file, split)
    angle = np.deg2rad(MAX_ROTATION)
    assert min(region.shape) - 1 >= (1 + MAX_ZOOM) * (np.cos(angle) + np.sin(angle)) * (IMAGE_SIZES[1] - 1)


@pytest.mark.parametrize("category", SURFACES)
def test_no_trivial_score_separates_good_from_defective(category):
    good = np.stack([render(category, "test", "good", i, size=64, seed=0)[0] for i in range(20)])
    kinds = SURFACES[category].defects
    bad = np.stack([render(category, "test", kind, i, size=64, seed=0)[0] for kind in kinds for i in range(8)])
    for score in (np.mean, np.std):
        a, b = score(good, axis=(1, 2, 3)), score(bad, axis=(1, 2, 3))
        assert 0.2 < (a[:, None] < b).mean() < 0.8  # image AUROC


def test_render_gives_up_with_a_message(monkeypatch):
    monkeypatch.setitem(DEFECTS, "chip", lambda surface, *_: surface)
    with pytest.raises(RuntimeError, match="No chip of the accepted area was drawn on brick at 64 pixels, seed 0"):
        render("brick", "test", "chip", 0, size=64, seed=0)


# --------------------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize("category", SURFACES)
def test_same_seed_gives_the_same_bytes(category, tmp_path):
    sets = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        module = tiny(tmp_path / folder, category=category, seed=seed)
        module.prepare_data()
        sets.append(contents(module.root / category))
    first, again, other = sets
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first if name.startswith(("train", "test")))


def test_every_picture_differs(data):
    pictures = [content for name, content in contents(data.root / "brick").items() if not name.startswith("ground")]
    assert len(set(pictures)) == len(pictures)


def test_layout_is_mvtec_ads(data):
    host = MVTecAD(root=data.root, category="brick", num_workers=0)
    host.setup()
    defects = SURFACES["brick"].defects
    assert len(host.train_data) == TINY["num_train"]
    assert len(host.test_data) == TINY["num_test_good"] + TINY["num_test_per_defect"] * len(defects)
    assert set(host.test_data.samples.label) == {"good", *defects}
    for item in host.test_data:
        assert item.image.shape == (3, 64, 64)
        assert bool(item.gt_mask.any()) == bool(item.gt_label)
    for path in (data.root / "brick" / "ground_truth").rglob("*.png"):
        assert set(np.unique(np.asarray(Image.open(path)))) == {0, 255}
    readme = (data.root / "brick" / "README.txt").read_text(encoding="utf-8")
    assert "demonstration" in readme
    assert "skimage/data/brick.png" in readme


def test_a_finished_set_is_left_alone(tmp_path, monkeypatch):
    tiny(tmp_path).prepare_data()
    monkeypatch.setattr(DemoTextures, "_write", lambda *_: pytest.fail("written twice"))
    tiny(tmp_path).setup()


def test_a_killed_run_leaves_nothing_that_is_trusted(tmp_path, monkeypatch):
    module, count = tiny(tmp_path), iter(range(100))

    def interrupted(*args, **kwargs):
        if next(count) == 5:
            raise KeyboardInterrupt
        return render(*args, **kwargs)

    monkeypatch.setattr(demo_textures, "render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        module.prepare_data()
    monkeypatch.undo()
    assert list(module.root.iterdir()) == []
    (module.root / ".brick-killed" / "train" / "good").mkdir(parents=True)  # as a lost power supply would leave it
    module.setup()
    assert len(module.train_data) + len(module.val_data) == TINY["num_train"]


def test_simultaneous_runs_do_no_harm(tmp_path):
    start, errors = threading.Barrier(3), []

    def prepare():
        start.wait()
        try:
            tiny(tmp_path).prepare_data()
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    module = tiny(tmp_path)
    assert not errors
    assert [path.name for path in module.root.iterdir()] == ["brick"]
    module.setup()
    assert len(module.train_data) + len(module.val_data) == TINY["num_train"]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        tiny(tmp_path / "file").prepare_data()


def test_settings_do_not_collide(tmp_path):
    changes = [{}, {"image_size": 65}, {"num_train": 11}, {"num_test_good": 4}, {"num_test_per_defect": 3}, {"seed": 1}]
    folders = {tiny(tmp_path, **change).root for change in changes}
    assert len(folders) == len(changes)


# ---------------------------------------------------------------------------------------------------- the datamodule


def test_validation_is_normal_and_never_a_test_picture(data):
    used = [set(part.samples.image_path) for part in (data.train_data, data.val_data, data.test_data)]
    assert not used[0] & used[1]
    assert not (used[0] | used[1]) & used[2]
    assert set(data.val_data.samples.label) == {"good"}
    assert all("train" in Path(path).parts for path in used[1])


def test_the_seed_fixes_the_validation_split(data, tmp_path):
    again = tiny(tmp_path)
    again.setup()
    names = [[Path(path).name for path in module.val_data.samples.image_path] for module in (data, again)]
    assert names[0] == names[1]


def test_defaults(monkeypatch, tmp_path):
    monkeypatch.setattr(demo_textures, "user_cache_dir", lambda name: str(tmp_path / name))
    data = DemoTextures()
    assert data.name == "DemoTextures"
    assert data.category == "brick"
    assert (data.train_batch_size, data.eval_batch_size, data.num_workers) == (16, 16, 0)
    assert data.val_split_mode is ValSplitMode.FROM_TRAIN
    assert data.root.parent == tmp_path / "anomalib-anoseg" / "DemoTextures"
    assert list(tmp_path.iterdir()) == []  # the constructor writes nothing


def test_loads_from_a_configuration_file(tmp_path):
    config = tmp_path / "data.yaml"
    config.write_text(
        f"class_path: anomalib_anoseg.data.DemoTextures\ninit_args: {{category: gravel, root: {tmp_path.as_posix()}}}\n"
    )
    data = AnomalibDataModule.from_config(config)
    assert isinstance(data, DemoTextures)
    assert data.category == "gravel"


def test_global_random_numbers_are_untouched(tmp_path):
    def states():
        numpy_state = np.random.mtrand._rand.get_state()[1].tolist()
        return random.getstate(), numpy_state, torch.get_rng_state().tolist()

    before = states()
    tiny(tmp_path).setup()
    assert states() == before


def test_no_network(tmp_path, monkeypatch):
    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, lambda *_, **__: pytest.fail("network"))
    surfaces._region.cache_clear()
    for category in SURFACES:
        tiny(tmp_path, category=category).setup()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"category": "wood"}, "category must be one of 'brick', 'gravel', got 'wood'"),
        ({"image_size": 63}, "image_size must be from 64 to 160, got 63"),
        ({"image_size": 161}, "image_size must be from 64 to 160, got 161"),
        ({"num_train": 0}, "num_train must be from 1 to 10000, got 0"),
        ({"num_test_good": 0}, "num_test_good must be from 1 to 10000, got 0"),
        ({"num_test_per_defect": 10_001}, "num_test_per_defect must be from 1 to 10000, got 10001"),
        ({"seed": -1}, f"seed must be from 0 to {2**63 - 1}, got -1"),
        ({"val_split_mode": "from_dir"}, "val_split_mode must be one of 'none', .*'from_train'.*, got 'from_dir'"),
        ({"val_split_mode": ValSplitMode.FROM_DIR}, "val_split_mode must be one of 'none'"),
        ({"val_split_ratio": 0.0}, r"val_split_ratio must be between 0 and 1 \(exclusive\), got 0.0"),
        ({"num_train": 6}, "num_train must be at least 7 for val_split_ratio=0.15, got 6"),
    ],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        DemoTextures(**settings)


def test_few_training_pictures_are_fine_without_their_validation_share(tmp_path):
    data = tiny(tmp_path, num_train=1, val_split_mode="none")
    data.setup()
    assert len(data.train_data) == 1
