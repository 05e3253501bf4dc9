"""Which images are alike, and which stand for all, against brute force and definitions."""

from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

from anomalib_anoseg.models.sgsf.neighbours import choose_representatives, k_center, medoid, nearest_others

METHODS = ("k_center", "k_means")


def draw(count, features=16, spread=1.0, seed=0):
    """Directions of length 1; with a small spread they lie close together, as those of an untrained network do."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(1 + spread * torch.randn(count, features, generator=generator), dim=1)


def brute_force(embeddings, candidates, own_index, n):
    cosines = F.cosine_similarity(embeddings.double()[:, None], candidates.double()[None], dim=2)
    for row, own in enumerate(own_index):
        if own >= 0:
            cosines[row, own] = -2
    return cosines.argsort(1, descending=True)[:, :n]


@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_nearest_others_are_those_of_brute_force(spread):
    embeddings, own = draw(40, spread=spread), torch.arange(40)
    found = nearest_others(embeddings, embeddings, own, 5)
    assert torch.equal(found, brute_force(embeddings, embeddings, own, 5))
    assert (found != own[:, None]).all()


def test_images_that_are_no_candidates_may_have_any():
    candidates = draw(9)
    own = torch.tensor([-1, 3, -1])
    found = nearest_others(candidates[[2, 3, 4]], candidates, own, 8)
    assert found[0, 0] == 2
    assert 3 not in found[1]
    assert found[2, 0] == 4
    assert nearest_others(candidates, candidates, torch.full((9,), -1), 9).shape == (9, 9)


def test_copies_of_an_image_are_others():
    embeddings = draw(4)[[0, 0, 1, 2]]
    assert nearest_others(embeddings, embeddings, torch.arange(4), 1)[:2, 0].tolist() == [1, 0]


def test_memory_stays_within_its_bound(tensor_sizes):
    embeddings, own = draw(500), torch.arange(500)
    with tensor_sizes() as largest:
        found = nearest_others(embeddings, embeddings, own, 3, max_similarities=10_000)
    assert largest.numbers == 10_000
    assert torch.equal(found, nearest_others(embeddings, embeddings, own, 3))


@pytest.mark.parametrize("n", [0, 4])
def test_refuses_more_references_than_there_are(n):
    embeddings = draw(4)
    with pytest.raises(ValueError, match=rf"n must lie within \[1, 3\].*got {n}; take a smaller"):
        nearest_others(embeddings, embeddings, torch.arange(4), n)


@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_medoid_by_definition(spread):
    embeddings = draw(30, spread=spread)
    cosines = F.cosine_similarity(embeddings.double()[:, None], embeddings.double()[None], dim=2)
    assert medoid(embeddings) == cosines.sum(1).argmax()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 2, 7, 20])
def test_representatives_are_different_images(method, count):
    embeddings = draw(20)
    chosen = choose_representatives(embeddings, count, method)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == count
    assert torch.equal(chosen, choose_representatives(embeddings, count, method))


@pytest.mark.parametrize("method", METHODS)
def test_all_stand_for_themselves_where_there_are_few(method):
    assert choose_representatives(draw(3), 8, method).tolist() == [0, 1, 2]


@pytest.mark.parametrize("method", METHODS)
def test_copies_count_as_images_of_their_own(method):
    copies = draw(2)[[0] * 5 + [1] * 5]
    chosen = choose_representatives(copies, 4, method)
    assert len(set(chosen.tolist())) == 4
    assert {index // 5 for index in chosen.tolist()} == {0, 1}


def test_k_center_is_within_twice_the_best_radius():
    embeddings = draw(10).double()
    distance = torch.cdist(embeddings, embeddings)
    best = min(distance[:, list(some)].amin(1).max() for some in combinations(range(10), 3))
    chosen = choose_representatives(embeddings, 3)
    assert distance[:, chosen].amin(1).max() <= 2 * best
    assert medoid(embeddings) in chosen


def farthest_by_differences(vectors, count):
    """Gonzalez's choice, with each distance computed from the difference in float64."""
    vectors = vectors.double()
    chosen = [(vectors - vectors.mean(0)).norm(dim=1).argmin().item()]
    while len(chosen) < count:
        distance = torch.stack([(vectors - vectors[index]).norm(dim=1) for index in chosen]).amin(0)
        chosen.append(distance.argmax().item())
    return sorted(chosen)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_k_center_in_float32_chooses_as_by_differences_in_float64(offset):
    vectors = torch.randn(600, 24, generator=torch.Generator().manual_seed(1)) + offset
    assert k_center(vectors, 40).tolist() == farthest_by_differences(vectors, 40)


def test_k_center_writes_no_table_of_vectors_for_each_choice(tensor_sizes):
    vectors = torch.randn(500, 64)
    with tensor_sizes() as few:
        k_center(vectors, 10)
    with tensor_sizes() as many:
        k_center(vectors, 110)
    assert (many.written - few.written) / 100 < 5 * len(vectors)


def test_k_center_keeps_the_rare_and_k_means_the_frequent():
    generator = torch.Generator().manual_seed(0)
    angles = torch.cat((torch.rand(20, generator=generator) * 0.5, torch.tensor([2.5, 2.5001])))
    embeddings = torch.stack((angles.cos(), angles.sin()), 1)
    chosen = choose_representatives(embeddings, 2)
    assert (chosen >= 20).sum() == 1
    by_means = choose_representatives(embeddings, 5, "k_means")
    assert (by_means < 20).sum() == 4


def test_k_means_takes_the_middle_of_each_cluster():
    angles = torch.tensor([0.0, 0.1, 0.2, 2.0, 2.1, 2.2, 4.0, 4.1, 4.2])
    embeddings = torch.stack((angles.cos(), angles.sin()), 1)
    assert choose_representatives(embeddings, 3, "k_means").tolist() == [1, 4, 7]


def test_refuses_bad_arguments():
    with pytest.raises(ValueError, match="must be 1 or more, got 0"):
        choose_representatives(draw(3), 0)
    with pytest.raises(ValueError, match="method must be 'k_center' or 'k_means', got 'random'"):
        choose_representatives(draw(3), 2, "random")
