"""Items in memory and in a file, of which nothing is taken for whole that is not."""

import os
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from anomalib.data import ImageItem
from torchvision.tv_tensors import Image, Mask

from anomalib_anoseg.training.shrunk_pictures import INDEX, ShrunkPictures

SHAPE = torch.Size((3, 4, 6))


def make_items(count=3):
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        image, mask = Image(torch.rand(SHAPE, generator=generator)), Mask(torch.zeros(4, 6, dtype=torch.bool))
        yield str(index), ImageItem(image=image, gt_mask=mask, gt_label=torch.tensor(0), image_path=__file__)


@pytest.fixture(params=["memory", "file"])
def pictures(request, tmp_path):
    if request.param == "memory":
        return ShrunkPictures.in_memory(make_items(), 3, SHAPE)
    return ShrunkPictures.in_file(make_items(), SHAPE, tmp_path)


def test_items_come_back_and_are_nobody_elses(pictures):
    for key, expected in make_items():
        item = pictures.item(key)
        assert torch.equal(item.image, expected.image)
        assert item.image_path == expected.image_path
        item.image.zero_()
        item.gt_mask.fill_(1)
        assert torch.equal(pictures.item(key).image, expected.image)
        assert not pictures.item(key).gt_mask.any()


def test_workers_get_no_copy(pictures):
    sent = bytes(ForkingPickler.dumps(pictures.images if pictures.file is None else pictures))
    assert len(sent) < 3000, "not the pixels"
    received = pickle.loads(sent)
    if pictures.file is None:
        pictures.images.zero_()  # both are one memory now
        assert not received.any()
    else:
        assert torch.equal(received.images, pictures.images)


def test_the_file_of_an_earlier_run_is_found(tmp_path):
    assert ShrunkPictures.find(tmp_path) is None
    ShrunkPictures.in_file(make_items(), SHAPE, tmp_path)
    ShrunkPictures.in_file(make_items(2), SHAPE, tmp_path)
    found = ShrunkPictures.find(tmp_path)
    assert found.entries.keys() == {"0", "1"}
    assert torch.equal(found.item("1").image, dict(make_items())["1"].image)


@pytest.mark.parametrize("use", [lambda first: ShrunkPictures.find(first.file.parent), pickle.dumps])
def test_pixels_in_use_stay_and_forgotten_ones_go(tmp_path, use):
    first = ShrunkPictures.in_file(make_items(), SHAPE, tmp_path)
    os.utime(first.file, (0, 0))
    use(first)
    ShrunkPictures.in_file(make_items(2), SHAPE, tmp_path)
    worker = pickle.loads(pickle.dumps(first))
    assert torch.equal(worker.images, first.images), "the first training goes on"
    os.utime(first.file, (0, 0))
    last = ShrunkPictures.in_file(make_items(1), SHAPE, tmp_path)
    assert not first.file.exists()
    assert last.file.exists()


def interrupted():
    yield from make_items(1)
    raise KeyboardInterrupt


def test_a_run_that_stops_leaves_what_was_there(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        ShrunkPictures.in_file(interrupted(), SHAPE, tmp_path)
    assert ShrunkPictures.find(tmp_path) is None
    ShrunkPictures.in_file(make_items(), SHAPE, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        ShrunkPictures.in_file(interrupted(), SHAPE, tmp_path)
    assert len(ShrunkPictures.find(tmp_path).entries) == 3


@pytest.mark.parametrize("spoil", ["pixels", "index", "foreign"])
def test_what_is_not_whole_is_not_found(tmp_path, spoil):
    file = ShrunkPictures.in_file(make_items(), SHAPE, tmp_path).file
    if spoil == "foreign":
        torch.save({"other": 1}, tmp_path / INDEX)
    else:
        path = file if spoil == "pixels" else tmp_path / INDEX
        path.write_bytes(path.read_bytes()[:-4])
    assert ShrunkPictures.find(tmp_path) is None
