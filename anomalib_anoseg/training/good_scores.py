"""Scores of good pictures that were held out, each of which counts once."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from os import fsencode
from typing import NamedTuple

import torch
from torch import Tensor

from anomalib_anoseg.training.calibration import Prediction


class GoodScores(NamedTuple):
    """Scores of good pictures that were held out.

    Attributes:
        images: Image scores ``(N,)`` by name.
        maps: ``(N,)``, the largest value of each picture's map; ``None`` without maps.
        files: ``(N,)`` int64, a digest of each picture's path; ``None`` or ``(0,)`` where paths are not known.
        looks: ``(N, 5)``, height, width, and what :func:`~anomalib_anoseg.common.appearance.measure` finds;
            ``None`` if it was not measured.
    """

    images: Mapping[str, Tensor]
    maps: Tensor | None = None
    files: Tensor | None = None
    looks: Tensor | None = None

    @classmethod
    def of(cls, prediction: Prediction, paths: Sequence[str] = (), looks: Tensor | None = None) -> "GoodScores":
        """Take what counts from the predictions for good pictures, which come from these files and look like this."""
        maps = prediction.anomaly_map
        digests = [
            int.from_bytes(blake2b(fsencode(path), digest_size=8).digest(), "big", signed=True) for path in paths
        ]
        files = torch.tensor(digests, dtype=torch.int64, device=next(iter(prediction.scores.values())).device)
        return cls(prediction.scores, None if maps is None else maps.flatten(1).amax(1), files, looks)

    def once(self) -> "GoodScores":
        """Keep the first scores of each file; without paths, all.

        Example:
            >>> scores = GoodScores.of(Prediction({"only": torch.tensor([0.1, 0.2, 0.1])}), ["a.png", "b.png", "a.png"])
            >>> scores.once().images["only"]
            tensor([0.1000, 0.2000])
        """
        if self.files is None or any(len(scores) != len(self.files) for scores in self.images.values()):
            return self
        first: dict[int, int] = {}
        for place, file in enumerate(self.files.tolist()):
            first.setdefault(file, place)
        kept = list(first.values())
        maps = None if self.maps is None else self.maps[kept]
        looks = None if self.looks is None else self.looks[kept]
        return GoodScores({name: scores[kept] for name, scores in self.images.items()}, maps, self.files[kept], looks)
