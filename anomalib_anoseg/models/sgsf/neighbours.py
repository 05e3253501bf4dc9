"""Find normal images that resemble each other, and a few that represent all.

Similarity is the cosine of embeddings of length 1. Features of an untrained network nearly all point in one direction:
their cosines differ from 1 by less than float32 resolves. So distances are compared instead, which order vectors of
equal length as cosines do. The mean is subtracted first, which leaves more digits for the differences.
"""

import warnings
from typing import Literal

import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.nn import functional as F

# Similarities in memory at a time: 64 MiB in float32.
MAX_SIMILARITIES = 2**24

Choice = Literal["k_center", "k_means"]


def closeness(embeddings: Tensor, candidates: Tensor) -> Tensor:
    """Compare ``(M, D)`` embeddings with ``(N, D)`` candidates, all of length 1: ``(M, N)``.

    Greater for greater cosines within a row: minus half the squared distance, up to a constant for each row. One matrix
    product, so that it exports and needs no second table.
    """
    mean = candidates.mean(0)
    centered = candidates - mean
    return F.linear(embeddings - mean, centered, centered.square().sum(1) / -2)


def nearest_others(
    embeddings: Tensor, candidates: Tensor, own_index: Tensor, n: int, max_similarities: int = MAX_SIMILARITIES
) -> Tensor:
    """Find for each image the ``n`` most similar candidates that are not itself.

    Args:
        embeddings: ``(M, D)`` float32 of length 1.
        candidates: ``(N, D)``, likewise.
        own_index: ``(M,)`` int64, each image's index among the candidates; -1 if it is none of them.
        n: Number of neighbours, at least 1 and fewer than there are candidates.
        max_similarities: Similarities in memory at a time; images are processed in parts accordingly.

    Returns:
        ``(M, n)`` int64, the most similar first.

    Raises:
        ValueError: If there are too few candidates.

    Example:
        >>> import torch
        >>> angles = torch.tensor([0.0, 0.1, 0.3, 2.0])
        >>> embeddings = torch.stack((angles.cos(), angles.sin()), 1)
        >>> nearest_others(embeddings, embeddings, torch.arange(4), 2).tolist()
        [[1, 2], [0, 2], [1, 0], [2, 1]]
    """
    others = len(candidates) - int((own_index >= 0).any())
    if not 1 <= n <= others:
        raise ValueError(
            f"n must lie within [1, {others}], the number of other images that can be a reference, got {n}; "
            "take a smaller number of references or more training images."
        )
    places = torch.arange(len(candidates), device=candidates.device)
    rows = max(1, max_similarities // len(candidates))
    found = []
    for part, own in zip(embeddings.split(rows), own_index.to(candidates.device).split(rows), strict=True):
        found.append(closeness(part, candidates).masked_fill_(places == own[:, None], -torch.inf).topk(n).indices)
    return torch.cat(found)


def medoid(embeddings: Tensor) -> Tensor:
    """Find the index of the medoid of ``(N, D)`` embeddings of length 1, an int64 scalar.

    The medoid has the smallest sum of squared distances to all, and so is nearest to their mean: no table of pairs is
    needed.

    Example:
        >>> import torch
        >>> angles = torch.tensor([0.0, 0.1, 0.3])
        >>> medoid(torch.stack((angles.cos(), angles.sin()), 1)).item()
        1
    """
    embeddings = embeddings.double()
    return (embeddings - embeddings.mean(0)).square().sum(1).argmin()


def choose_representatives(embeddings: Tensor, count: int, method: Choice = "k_center", seed: int = 0) -> Tensor:
    """Choose images that represent all.

    Args:
        embeddings: ``(N, D)`` of length 1.
        count: How many, at least 1; all images if there are not more.
        method: ``"k_center"`` starts at the medoid and repeatedly adds the image farthest from those chosen, so that
            rare images are kept; ``"k_means"`` takes the image nearest to the centre of each of ``count`` clusters, so
            that frequent kinds of image get more.
        seed: Of the clustering; ``"k_center"`` draws nothing.

    Returns:
        ``(min(count, N),)`` int64, ascending, no image twice.

    Raises:
        ValueError: If ``count`` is less than 1 or the method unknown.

    Example:
        >>> import torch
        >>> angles = torch.tensor([0.0, 0.1, 0.2, 2.0])
        >>> choose_representatives(torch.stack((angles.cos(), angles.sin()), 1), 2).tolist()
        [2, 3]
    """
    if count < 1:
        raise ValueError(f"The number of representatives must be 1 or more, got {count}.")
    if method not in {"k_center", "k_means"}:
        raise ValueError(f"method must be 'k_center' or 'k_means', got {method!r}.")
    if count >= len(embeddings):
        return torch.arange(len(embeddings), device=embeddings.device)
    embeddings = embeddings.double()
    if method == "k_center":
        return k_center(embeddings, count)
    return _add_farthest(embeddings, _middles(embeddings, count, seed), count).sort().values


def k_center(vectors: Tensor, count: int) -> Tensor:
    """Choose the medoid, and repeatedly the vector farthest from those chosen (Gonzalez 1985).

    Args:
        vectors: ``(N, D)`` of any length. Distances have their precision: where vectors differ by little of what they
            are, only float64 tells them apart.
        count: How many, at least 1; all if there are not more.

    Returns:
        ``(min(count, N),)`` int64, ascending, no vector twice.

    Example:
        >>> import torch
        >>> k_center(torch.tensor([[0.0], [0.1], [0.2], [2.0]]), 2).tolist()
        [2, 3]
    """
    if count >= len(vectors):
        return torch.arange(len(vectors), device=vectors.device)
    return _add_farthest(vectors, medoid(vectors)[None], count).sort().values


def _add_farthest(vectors: Tensor, start: Tensor, count: int) -> Tensor:
    """Add the vector farthest from all that are chosen until there are ``count``.

    Squared distances are those of products, so that each choice reads the vectors once and writes nothing of their
    size. Their mean is subtracted first, because the products cancel.
    """
    centered = vectors - vectors.mean(0)
    squares = centered.square().sum(1)
    distance = torch.full_like(squares, torch.inf)
    chosen = list(start)
    for place in range(count):
        if place == len(chosen):
            chosen.append(distance.argmax())
        added = chosen[place]
        distance = distance.minimum(torch.addmv(squares, centered, centered[added], alpha=-2) + squares[added])
        distance[added] = -torch.inf  # no minimum raises it again, while copies of a chosen one have 0
    return torch.stack(chosen)


def _middles(embeddings: Tensor, count: int, seed: int) -> Tensor:
    """Find the image nearest each cluster's centre; copies of one image may make fewer clusters than asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters = KMeans(count, n_init=1, random_state=seed).fit(embeddings.cpu().numpy())
    labels = torch.from_numpy(clusters.labels_).long()
    distance = (embeddings.cpu() - torch.from_numpy(clusters.cluster_centers_)[labels]).norm(dim=1)
    # A row for each cluster, in which other clusters' images are infinitely far.
    rows = torch.where(labels == torch.arange(count)[:, None], distance, torch.inf)
    return rows.argmin(1)[rows.isfinite().any(1)].to(embeddings.device)
