"""The references a model carries: look-up, storage, and their size."""

from itertools import starmap

import pytest
import torch
from torch.nn import functional as F

from anomalib_anoseg.models.sgsf.bank import ReferenceBank


@pytest.fixture
def fill(pictures):
    def make(count=4, size=(32, 48), precision="float16"):
        bank = ReferenceBank(precision)
        bank.fill(pictures(count, size), F.normalize(torch.randn(count, 16), dim=1))
        return bank

    return make


@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_the_most_similar_is_found(spread, pictures):
    torch.manual_seed(0)
    embeddings = F.normalize(1 + spread * torch.randn(20, 16), dim=1)
    queries = F.normalize(1 + spread * torch.randn(50, 16), dim=1)
    bank = ReferenceBank()
    bank.fill(pictures(20), embeddings)
    cosines = F.cosine_similarity(queries.double()[:, None], embeddings.double()[None], dim=2)
    assert torch.equal(bank.nearest(queries), cosines.argmax(1))
    assert torch.equal(bank.nearest(embeddings), torch.arange(20))


def test_pictures_come_back_as_they_were(fill, pictures):
    bank, images = fill(), pictures(4, (32, 48))
    assert torch.equal(bank.pictures(torch.tensor([2, 0, 2])), images[[2, 0, 2]] / 255)
    assert torch.equal(bank.pictures(None), images / 255)


@pytest.mark.parametrize(("precision", "dtype"), [("float16", torch.float16), ("float32", torch.float32)])
def test_what_is_stored_comes_back(fill, precision, dtype):
    bank = fill(precision=precision)
    features = [torch.rand(4, 8, 6, 6), torch.rand(4, 16, 3, 3)]
    bank.store(features)
    picked = bank.stored(torch.tensor([3, 3]))
    assert [tensor.dtype for tensor in picked] == [dtype, dtype]
    assert all(torch.equal(tensor, whole[[3, 3]].to(dtype)) for tensor, whole in zip(picked, features, strict=True))
    assert set(bank.state_dict()) == {"images", "embeddings"}


def test_what_was_stored_is_forgotten_with_its_references(fill):
    bank = fill()
    for change in (lambda: bank.fill(*fill(3).buffers()), lambda: bank.load_state_dict(fill(2).state_dict())):
        bank.store([torch.rand(4, 8, 6, 6)])
        assert bank.has_stored
        change()
        assert not bank.has_stored
        assert len(list(bank.buffers())) == 2


def test_the_callers_tensors_are_not_shared(pictures):
    images, embeddings = pictures(2), torch.eye(2)
    bank = ReferenceBank()
    bank.fill(images, embeddings)
    images.zero_()
    embeddings.zero_()
    assert bank.images.any()
    assert bank.embeddings.any()


@pytest.mark.parametrize("count", [0, 2, 5])
def test_loads_into_a_bank_of_any_size(fill, count):
    full = fill(5, (32, 48))
    other = fill(count, (64, 64)) if count else ReferenceBank()
    other.load_state_dict(full.state_dict())
    assert all(starmap(torch.equal, zip(other.buffers(), full.buffers(), strict=True)))
    other.load_state_dict(ReferenceBank().state_dict())
    assert len(other) == 0


def test_medoid_is_kept(pictures):
    angles = torch.tensor([0.0, 0.1, 0.3])
    bank, chooses, loaded = ReferenceBank(single=True), ReferenceBank(), ReferenceBank(single=True)
    for one in (bank, chooses):
        one.fill(pictures(3), torch.stack((angles.cos(), angles.sin()), 1))
    loaded.load_state_dict(chooses.state_dict())
    for one in (bank, loaded):
        assert torch.equal(one.images, pictures(3)[1:2])
    assert len(chooses) == 3


def test_refuses_other_sizes_and_an_empty_bank(fill):
    with pytest.raises(RuntimeError, match="no references yet: train the model, or load a checkpoint"):
        ReferenceBank().check_size(torch.rand(1, 3, 32, 48))
    with pytest.raises(ValueError, match=r"are 32x48 pixels, the image is 64x48.*image_size=\(64, 48\)"):
        fill().check_size(torch.rand(1, 3, 64, 48))
    fill().check_size(torch.rand(7, 3, 32, 48))


@pytest.mark.parametrize(
    ("images", "embeddings", "message"),
    [
        (torch.rand(2, 3, 32, 32), torch.rand(2, 4), "images must be uint8"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), torch.rand(2, 4), "images must be uint8"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.rand(3, 4), "one for each of the K >= 1 images"),
        (torch.zeros(0, 3, 32, 32, dtype=torch.uint8), torch.rand(0, 4), "one for each of the K >= 1 images"),
    ],
)
def test_refuses_what_is_no_bank(images, embeddings, message):
    with pytest.raises(ValueError, match=message):
        ReferenceBank().fill(images, embeddings)
