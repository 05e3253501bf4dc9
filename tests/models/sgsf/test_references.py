"""References: never the image itself, read without augmentations, within memory."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import RandomHorizontalFlip, Resize

from anomalib_anoseg.models.sgsf.references import collect_references


class Pictures:
    """A data set of ``(3, 8, 8)`` images: flat, from black to white."""

    def __init__(self, count=6, greys=None):
        self.greys = torch.linspace(0, 1, count) if greys is None else torch.tensor(greys)
        self.augmentations = RandomHorizontalFlip(1.0)

    def __len__(self):
        return len(self.greys)

    def __getitem__(self, index):
        image = self.greys[index].expand(3, 8, 8).clone()
        image[:, 0, 0] = 1  # tells which way round the image is
        return SimpleNamespace(
            image=self.augmentations(image) if self.augmentations else image, image_path=f"{index}.png"
        )


def embed(image):
    """Greys on a part of a circle: the closer, the more alike."""
    grey = image.mean((1, 2, 3))
    return F.normalize(torch.stack((grey.cos(), grey.sin()), 1))


def collect(dataset=None, transforms=(), **arguments):
    return collect_references(dataset or Pictures(), transforms, embed, **{"size": 2, **arguments})


def draws(references, path, count=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return set(references.choose([path] * count, generator).tolist())


def test_the_most_similar_others_are_drawn_and_never_the_image_itself():
    references = collect()
    assert draws(references, "0.png") == {1, 2}
    assert draws(references, "3.png") == {2, 4}
    assert draws(references, "5.png") == {3, 4}
    drawn = references.draw(["0.png", "5.png"])
    assert drawn.shape == (2, 3, 8, 8)
    assert drawn.dtype == torch.uint8


def test_the_image_itself_is_an_ablation():
    assert draws(collect(include_itself=True), "3.png") in ({3, 2}, {3, 4})


def test_without_a_contrast_set_any_other_is_drawn():
    references = collect(size=None)
    for index in range(6):
        assert draws(references, f"{index}.png") == set(range(6)) - {index}


def test_size_is_bounded_by_what_there_is():
    assert draws(collect(size=99), "2.png") == {0, 1, 3, 4, 5}


def test_equal_seeds_draw_alike():
    references = collect()
    first, same, other = (references.choose(["3.png"] * 32, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_references_are_not_augmented_but_transformed_as_asked():
    dataset = Pictures()
    references = collect(dataset, [None, Resize((4, 8))])
    assert references.images.shape == (6, 3, 4, 8)
    corner = references.images[0, 0, 0]
    assert corner[0] > corner[-1], "not flipped"
    assert dataset.augmentations is not None, "the data set stays as it was"


@pytest.mark.parametrize("size", [2, None])
def test_copies_are_no_references_of_each_other(size):
    references = collect(Pictures(greys=[0.0, 0.5, 0.5, 1.0]), size=size)
    assert len(references.images) == 3
    assert draws(references, "1.png") == draws(references, "2.png") == {0, 2}


@pytest.mark.parametrize("size", [2, None])
def test_memory_bounds_what_is_kept(size):
    with pytest.warns(UserWarning, match=r"holds 3 of 6 training images: one in 2 serves"):
        references = collect(memory=3.5 * 3 * 64 / 2**20, size=size)
    assert references.images.shape[0] == 3  # 0, 2, 4
    assert draws(references, "2.png") == {0, 2}
    assert draws(references, "1.png") == ({0, 1} if size else {0, 1, 2}), "is no reference itself, so any will do"
    assert len(references.rows) == 6


def test_bank_holds_all_representatives_or_the_medoid():
    references = collect()
    images, embeddings = references.choose_bank(99, "k_center", 0)
    assert torch.equal(images, references.images)
    torch.testing.assert_close(embeddings, references.embeddings)
    assert len(references.choose_bank(3, "k_means", 0)[0]) == 3
    images, embeddings = references.choose_bank(1, "k_center", 0)
    assert images.shape == (1, 3, 8, 8)
    assert embeddings.shape == (1, 2)
    assert 0.2 < images.float().mean() / 255 < 0.8, "the one in the middle"


@pytest.mark.parametrize(
    ("dataset", "arguments", "message"),
    [
        (Pictures(1), {}, "found 1 different of 1 training images"),
        (Pictures(greys=[0.5, 0.5, 0.5]), {}, "found 1 different of 3 training images"),
        (Pictures(), {"memory": 1e-6}, "guidance.memory must hold two images"),
    ],
)
def test_what_cannot_be_is_refused(dataset, arguments, message):
    with pytest.raises(ValueError, match=message):
        collect(dataset, **arguments)


def test_paths_are_needed():
    class Nameless(Pictures):
        def __getitem__(self, index):
            return SimpleNamespace(image=super().__getitem__(index).image, image_path=None)

    with pytest.raises(ValueError, match="by its image_path, which is missing"):
        collect(Nameless())
    references = collect()
    with pytest.raises(ValueError, match="by its image_path, which is missing"):
        references.draw(None)
    with pytest.raises(ValueError, match=r"new\.png is not among the 6 training images"):
        references.draw(["0.png", "new.png"])


def test_one_size_is_needed():
    class Growing(Pictures):
        def __getitem__(self, index):
            return SimpleNamespace(image=torch.rand(3, 8, 8 + index), image_path=str(index))

    with pytest.raises(ValueError, match="References must have one size"):
        collect(Growing())
