"""SGSF's model: what each switch changes, who learns from what, and inference from what the model carries."""

import copy
from functools import partial
from itertools import starmap

import pytest
import torch
from anomalib.data import InferenceBatch

from anomalib_anoseg.models.sgsf.loss import SGSFLoss
from anomalib_anoseg.models.sgsf.torch_model import SGSFModel
from anomalib_anoseg.training.seeding import seeded_weights

SIZE = (64, 96)
# The smallest networks.
build = partial(SGSFModel, width=0.125, extractor="resnet10t")


def gradients(model, part):
    return [parameter.grad for parameter in getattr(model.network, part).parameters() if parameter.ndim == 4]


@pytest.fixture
def learn(batch):
    def backward(model, **weights):
        image, reference, mask = batch(), batch(seed=8), torch.zeros(2, 1, *SIZE)
        mask[..., 20:40, 20:40] = 1
        output = model.train()(image, reference)
        SGSFLoss(**weights)(output.logits, mask, output.reconstruction, reference).total.backward()
        return model

    return backward


@pytest.mark.parametrize("passes", ["fused", "concatenated"])
def test_gradients_reach_all_that_learns_and_nothing_else(learn, passes):
    model = learn(build(passes=passes))
    for name, parameter in model.named_parameters():
        if name.startswith("extractor"):
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name
        else:
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name
    assert {id(parameter) for parameter in model.trained_parameters()} == {
        id(parameter) for parameter in model.parameters() if parameter.requires_grad
    }


def test_the_auto_encoder_learns_from_the_segmentation_unless_detached(learn):
    guided = learn(build(), reconstruction_weight=0.0)
    assert all(gradient.abs().sum() > 0 for gradient in gradients(guided, "autoencoder")[:-1])
    with seeded_weights(0):
        detached = learn(build(detach_guidance=True), reconstruction_weight=0.0)
        alone = build(detach_guidance=True)
    assert all(gradient.abs().sum() == 0 for gradient in gradients(detached, "autoencoder"))
    assert all(gradient.abs().sum() > 0 for gradient in gradients(detached, "segmenter"))
    learn(alone)
    assert all(gradient.abs().sum() > 0 for gradient in gradients(alone, "autoencoder"))


def test_training_returns_logits_and_reconstruction(batch):
    output = build()(batch(), batch(seed=8))
    assert output.logits.shape == (2, 2, *SIZE)
    assert output.reconstruction.shape == (2, 3, *SIZE)


@pytest.mark.parametrize("bank_features", ["stored", "computed"])
@pytest.mark.parametrize("guidance", ["nearest", "single"])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), SIZE])
def test_evaluation_predicts_for_any_size(make_model, size, guidance, bank_features, batch):
    model = make_model(size=size, guidance=guidance, bank_features=bank_features)
    prediction = model(batch(3, size))
    assert isinstance(prediction, InferenceBatch)
    assert prediction.anomaly_map.shape == (3, 1, *size)
    assert prediction.pred_score.shape == (3,)
    for values in (prediction.anomaly_map, prediction.pred_score):
        assert 0 <= values.min() < values.max() <= 1


def test_each_image_is_guided_by_its_nearest_reference(make_model, pictures, batch):
    model, image = make_model(bank_features="computed"), batch(3)
    image[1] = pictures(5)[4] / 255
    index = model.bank.nearest(model.embed(image))
    assert index[1] == 4
    expected = model.network.segmenter(image, model.network.autoencoder(pictures(5)[index] / 255)[1])
    torch.testing.assert_close(model(image).anomaly_map, expected.softmax(1)[:, 1:])
    assert not torch.allclose(model(image[1:2]).anomaly_map, guided_by(model, image[1:2], pictures(5), 0))


def guided_by(model, image, references, place):
    prepared = model.network.prepare(references[place : place + 1] / 255)
    return model.network.segmenter.segment(image, prepared).softmax(1)[:, 1:]


def test_a_single_reference_is_the_medoid_and_guides_all(make_model, pictures, batch):
    from anomalib_anoseg.models.sgsf.neighbours import medoid

    model, image = make_model(guidance="single", bank_precision="float32"), batch(3)
    middle = medoid(model.embed(pictures(5) / 255))
    assert len(model.bank) == 1
    torch.testing.assert_close(model(image).anomaly_map, guided_by(model, image, pictures(5), middle))


@pytest.mark.parametrize("passes", ["fused", "concatenated"])
def test_stored_features_predict_what_computed_ones_do(make_model, passes, batch):
    image = batch(4)
    maps = {
        (features, precision): make_model(passes=passes, bank_features=features, bank_precision=precision)(
            image
        ).anomaly_map
        for features, precision in (("computed", "float32"), ("stored", "float32"), ("stored", "float16"))
    }
    computed, exact, rounded = maps.values()
    torch.testing.assert_close(exact, computed, atol=1e-5, rtol=0)
    assert 0 < (rounded - computed).abs().max() < 2e-3
    assert computed.std() > 0.01


def test_stored_features_follow_the_networks(make_model, batch):
    """Also where Lightning restores the training mode without calling ``train``, and loads weights into a model."""
    stored, image = make_model(bank_precision="float32"), batch()
    before, changed = stored(image).anomaly_map, make_model(bank_features="computed")
    with torch.no_grad():
        for parameter in changed.network.autoencoder.parameters():
            parameter.mul_(1.1)
    expected = changed(image).anomaly_map
    assert not torch.allclose(before, expected, atol=1e-4)
    stored.load_state_dict(changed.state_dict())
    torch.testing.assert_close(stored(image).anomaly_map, expected, atol=1e-5, rtol=0)

    trained = make_model(bank_precision="float32")
    for module in trained.modules():
        module.training = True
    trained(image, image)
    trained.load_state_dict(changed.state_dict())
    torch.testing.assert_close(trained.eval()(image).anomaly_map, expected, atol=1e-5, rtol=0)


def test_features_are_computed_once_for_many_evaluations(make_model, batch):
    model, calls = make_model(), []
    model.network.autoencoder.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        model.eval()(batch())
    copy.deepcopy(model).eval()(batch())
    assert not calls
    model.train()(batch(), batch())
    model.eval()
    assert len(calls) == 1, "a switch computes nothing"
    for _ in range(2):
        model.prepare_for_evaluation()
    assert len(calls) == 3, "one step, and five references in two parts"


def test_features_computed_in_inference_mode_serve_outside(make_model, batch):
    model = make_model()
    model.bank.forget()
    with torch.inference_mode():
        model(batch())
    assert not any(tensor.is_inference() for tensor in model.bank.stored(None))
    model.store_features()


@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_a_checkpoint_predicts_in_a_model_built_anew(make_model, averaging, tmp_path, pictures, batch):
    model, image = make_model(averaging=averaging), batch()
    expected = model(image)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    for count in (None, 2):
        fresh = build(averaging=averaging)
        if count:
            fresh.fill_bank(pictures(count, (32, 32)), torch.eye(count))
        fresh.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
        prediction = fresh.eval()(image)
        assert torch.equal(prediction.anomaly_map, expected.anomaly_map)
        assert torch.equal(prediction.pred_score, expected.pred_score)


@pytest.mark.parametrize("averaging", [0.0, 0.9])
@pytest.mark.parametrize("guidance", ["nearest", "single", "none"])
@pytest.mark.parametrize("bank_features", ["stored", "computed"])
def test_export_drops_what_only_training_needs(make_model, averaging, guidance, bank_features, batch):
    model, image = make_model(averaging=averaging, guidance=guidance, bank_features=bank_features), batch()
    expected = model(image).anomaly_map
    light = copy.deepcopy(model)
    light.drop_training_parts()
    assert torch.equal(light.eval()(image).anomaly_map, expected)
    kept = {name.split(".")[0] for name, _ in (*light.named_parameters(), *light.named_buffers())}
    assert kept == {"network"} | ({"bank"} if guidance != "none" else set()) | (
        {"extractor"} if guidance == "nearest" else set()
    )
    needs_auto_encoder = guidance != "none" and bank_features == "computed"
    assert (light.network.autoencoder is not None) == needs_auto_encoder
    assert guidance == "none" or (len(light.bank.images) > 0) == needs_auto_encoder


def test_references_follow_the_weights_without_a_trainer(make_model, batch):
    model, image = make_model(), batch()
    model.train()(image, batch(seed=8))
    with torch.no_grad():
        for parameter in model.network.autoencoder.parameters():
            parameter.mul_(0.9)
    found = model.eval()(image).anomaly_map
    model.store_features()
    assert torch.equal(found, model(image).anomaly_map)


def test_evaluation_uses_the_averaged_weights(make_model, batch):
    model, image = make_model(averaging=0.9), batch()
    before = model(image).anomaly_map
    with torch.no_grad():
        for parameter in model.trained_parameters():
            parameter.mul_(1.5)
    assert torch.equal(model(image).anomaly_map, before)
    for step in range(1, 100):
        model.update_average(image, batch(seed=8), step)
    model.prepare_for_evaluation()
    assert not torch.allclose(model(image).anomaly_map, before)


def test_evaluation_starts_with_statistics_of_the_last_pairs(make_model, batch):
    model, image, reference = make_model(averaging=0.9), batch(4), batch(4, seed=8)
    for step in range(1, 10):
        model.update_average(batch(4, seed=step), batch(4, seed=20 + step), step) if step < 6 else model.update_average(
            image, reference, step
        )
    averaged = model.averaged.module
    for part, seen in ((averaged.autoencoder, reference), (averaged.segmenter, image)):
        first = part.encoder[0].first
        model.prepare_for_evaluation()
        torch.testing.assert_close(
            first.norm.running_mean, first.from_image(seen).mean((0, 2, 3)), atol=1e-5, rtol=1e-4
        )


def test_without_guidance_nothing_of_it_is_built(make_model, batch):
    model = make_model(guidance="none")
    assert not model.needs_bank
    assert model.bank is model.extractor is model.network.autoencoder is None
    output = model.train()(batch())
    assert output.reconstruction is None
    assert model.eval()(batch(1, (41, 50))).anomaly_map.shape == (1, 1, 41, 50)
    assert not {name.split(".")[0] for name in model.state_dict()} - {"network"}


def test_a_denoising_auto_encoder_sees_the_image_itself(make_model, batch):
    model, image = make_model(denoise=True), batch()
    assert not model.needs_bank
    expected = model.network.segmenter(image, model.network.autoencoder(image)[1]).softmax(1)[:, 1:]
    torch.testing.assert_close(model(image).anomaly_map, expected)
    seen = []
    model.network.autoencoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    output = model.train()(image, batch(seed=8))
    assert torch.equal(seen[0], image)
    assert output.reconstruction.shape == image.shape


def test_channels_last_changes_nothing_but_the_layout(make_model, batch):
    model, image = make_model(), batch()
    expected = model(image).anomaly_map
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(image).anomaly_map, expected, atol=1e-4, rtol=0)
    model.train()(image, image)
    model.eval()(image)


def test_low_precision_leaves_maps_scores_losses_and_the_choice_in_float32(make_model, batch):
    model, image = make_model(), batch(4)
    exact = model(image)
    chosen = model.bank.nearest(model.embed(image))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        prediction = model(image)
        assert torch.equal(model.bank.nearest(model.embed(image)), chosen)
    assert prediction.anomaly_map.dtype == prediction.pred_score.dtype == torch.float32
    torch.testing.assert_close(prediction.anomaly_map, exact.anomaly_map, atol=0.2, rtol=0)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(image, image)
        terms = SGSFLoss()(output.logits, image[:, :1].round(), output.reconstruction, image)
    assert {term.dtype for term in terms} == {torch.float32}
    terms.total.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.trained_parameters())
    # Features are prepared in float32, also where evaluation starts under autocast.
    with torch.autocast("cpu", torch.bfloat16):
        model.prepare_for_evaluation()
    before = [tensor.clone() for tensor in model.bank.stored(None)]
    model.store_features()
    assert all(starmap(torch.equal, zip(before, model.bank.stored(None), strict=True)))


def test_the_same_seed_gives_the_same_training(learn):
    states = []
    for _ in range(2):
        with seeded_weights(3):
            model = learn(build())
        torch.optim.Adam(model.trained_parameters(), 1e-3).step()
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_step_never_waits_for_the_device(count_operations, batch):
    model, image, loss = build(), batch(), SGSFLoss()
    with count_operations() as counter:
        output = model(image, image)
        loss(output.logits, image[:, :1], output.reconstruction, image).total.backward()
    assert counter.operations > 0
    assert counter.synchronisations == 0


def test_learns_to_mark_what_differs_from_the_reference(batch, training_seed):
    """Four pairs in which nothing but the reference tells whether the square in the image is an anomaly."""
    normal = batch(2, (32, 32))
    marked = normal.clone()
    marked[..., 8:24, 10:22] = 1 - marked[..., 8:24, 10:22]
    image, reference = torch.cat((marked, marked)), torch.cat((normal, marked))
    mask = torch.zeros(4, 1, 32, 32)
    mask[:2, :, 8:24, 10:22] = 1
    with seeded_weights(training_seed):
        model, loss = build(), SGSFLoss()
    optimizer = torch.optim.Adam(model.trained_parameters(), 3e-3)
    for _ in range(200):  # slow seeds still learn after 140
        output = model(image, reference)
        terms = loss(output.logits, mask, output.reconstruction, reference)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
    predicted = output.logits.softmax(1)[:, 1:] > 0.5
    union, overlap = (predicted | mask.bool()).sum(), (predicted & mask.bool()).sum()
    assert overlap / union > 0.9
    assert terms.reconstruction < 0.5


def test_errors_name_the_remedy(make_model, pictures, batch):
    with pytest.raises(RuntimeError, match="train the model, or load a checkpoint"):
        build().eval()(batch())
    with pytest.raises(ValueError, match=r"reference must be a normal image for each of \(2, 3, 64, 96\), got None"):
        build()(batch())
    with pytest.raises(ValueError, match=r"got \(1, 3, 64, 96\)"):
        build()(batch(), batch(1))
    with pytest.raises(ValueError, match="references are 64x96 pixels, the image is 32x32"):
        make_model()(batch(1, (32, 32)))
    plain = build(guidance="none")
    with pytest.raises(RuntimeError, match="needs no references"):
        plain.fill_bank(pictures(2), torch.eye(2))
    with pytest.raises(RuntimeError, match="no extractor"):
        plain.embed(batch())
