"""What tells similar images: frozen, repeatable, in full precision, with weights from a file."""

import pytest
import timm
import torch

from anomalib_anoseg.models.sgsf.extractor import FeatureExtractor
from anomalib_anoseg.training.seeding import seeded_weights

SMALL = "resnet10t"


@pytest.fixture(scope="module")
def extractor():
    return FeatureExtractor(SMALL)


def test_embeddings_have_length_one(extractor):
    embedding = extractor(torch.rand(3, 3, 64, 96))
    assert embedding.shape == (3, 512) == (3, extractor.embedding_size)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))


def test_nothing_of_it_ever_changes(extractor):
    before = {name: value.clone() for name, value in extractor.state_dict().items()}
    image = torch.rand(4, 3, 64, 64, requires_grad=True)
    extractor.train()
    training = extractor(image)
    assert extractor.network.training, "the mode that the trainer set comes back"
    assert not training.requires_grad
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    assert all(torch.equal(value, before[name]) for name, value in extractor.state_dict().items())
    assert torch.equal(extractor.eval()(image), training)


def test_precision_is_full_under_autocast(extractor):
    image = torch.rand(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        embedding = extractor(image)
    assert torch.equal(embedding, extractor(image))


def test_random_weights_follow_the_seed():
    image, embeddings = torch.rand(1, 3, 64, 64), []
    for seed in (0, 0, 1):
        with seeded_weights(seed):
            embeddings.append(FeatureExtractor(SMALL).eval()(image))
    assert torch.equal(embeddings[0], embeddings[1])
    assert not torch.equal(embeddings[0], embeddings[2])


def test_weights_come_from_a_file_when_asked_for(tmp_path):
    source = timm.create_model(SMALL)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    extractor = FeatureExtractor(SMALL, str(tmp_path / "weights.pth"))
    assert not torch.equal(extractor.network.conv1[0].weight, source.conv1[0].weight), "constructors read no files"
    extractor.load_pretrained()
    assert torch.equal(extractor.network.conv1[0].weight, source.conv1[0].weight)
    assert not any(parameter.requires_grad for parameter in extractor.parameters())


def test_random_weights_are_not_loaded(extractor):
    before = extractor.network.conv1[0].weight.clone()
    extractor.load_pretrained()
    assert torch.equal(extractor.network.conv1[0].weight, before)


def test_pretrained_weights_see_what_they_were_trained_on():
    seen = []
    extractor = FeatureExtractor(SMALL, weights=True)
    extractor.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = torch.rand(1, 3, 64, 64)
    extractor(image)
    torch.testing.assert_close(seen[0][:, 0], (image[:, 0] - 0.485) / 0.229)
    assert {"mean", "std"} < set(extractor.state_dict())


def test_images_are_resized_for_it():
    seen = []
    extractor = FeatureExtractor(SMALL, size=48)
    extractor.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    extractor(torch.rand(2, 3, 65, 97))
    assert seen == [(2, 3, 48, 48)]


def test_refuses_bad_arguments():
    with pytest.raises(ValueError, match=r"extractor\.name must be the name of a timm model, got 'no_such_network'"):
        FeatureExtractor("no_such_network")
