"""CLIP score: how well images fit the captions that they were made from (arXiv:2104.08718)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.cache import Cache, digest
from harness.captions import read_captions
from harness.features.clip import BATCH, CLIP, check_folder, title, weights_hash
from harness.images import ImageSet, RealImages
from harness.metrics.metric import Evidence, Metric, thousands
from zoo.console import progress

VERSION = 1  # of the preprocessing; a change makes cached scores stale


class CLIPScore(Metric):
    """The mean cosine between the CLIP features of images and of their captions.

    Three conventions are in use: the mean cosine, as text-to-image papers since Imagen plot it; 100 times that
    (torchmetrics); and 2.5 max(0, cosine), CLIPScore as Hessel et al. define it. This is the first; the others follow
    from it where no cosine is negative. Neither text nor caption of simple diffusion's figure 8 says which one, or
    which CLIP, its axis shows; since the paper follows Imagen in all else of this experiment, the mean cosine by
    ViT-L/14 is the likely reading, and no more than that.

    Args:
        weights: folder of a keras-hub preset of CLIP.
        captions: file with a caption for each sample; by default the samples bring them along (see
            `harness.captions`).
    """

    def __init__(self, weights: str, captions: str | None = None):
        self.weights, self.captions = weights, captions

    def check(self, *, real: RealImages, samples: ImageSet) -> None:
        check_folder(Path(self.weights))
        self._captions(samples)

    def compute(self, *, reference: Evidence, samples: Evidence, real: RealImages, cache: Cache) -> dict[str, float]:
        cosines = self._cosines(samples.images, cache)
        error = float(cosines.std(ddof=1) / len(cosines) ** 0.5) if len(cosines) > 1 else 0.0
        return {"clip_score": float(cosines.mean()), "clip_score_error": error}

    def details(self, *, samples: Evidence, real: RealImages, cache: Cache) -> dict[str, Any]:
        weights = Path(self.weights)
        facts = {"title": title(weights), "weights": weights_hash(weights)}
        return {"clip": {**facts, "captions": digest(self._captions(samples.images))}}

    def protocol(self, samples: int, network: str) -> Mapping[str, str]:
        setting = f"CLIP score-{thousands(samples)} ({title(Path(self.weights))}, mean cosine)"
        return {"clip_score": setting, "clip_score_error": f"{setting}, standard error"}

    def floor(
        self, *, pair: tuple[Evidence, Evidence] | None, count: int, real: RealImages, cache: Cache
    ) -> dict[str, float]:
        return {}  # real images have captions only where the dataset has them

    def _captions(self, samples: ImageSet) -> list[str]:
        return read_captions(samples, None if self.captions is None else Path(self.captions))

    def _cosines(self, samples: ImageSet, cache: Cache) -> np.ndarray:
        """float64 [N]."""
        captions = self._captions(samples)
        key = {"version": VERSION, "weights": weights_hash(Path(self.weights))}
        key |= {"samples": samples.fingerprint(), "captions": digest(captions)}

        def make() -> dict[str, np.ndarray]:
            clip = CLIP(Path(self.weights))
            found: list[np.ndarray] = []
            done = 0
            with progress(samples.count, f"CLIP score of {samples.name}", "images", leave=False) as bar:
                for images, _ in samples.batches(BATCH):
                    found.append(clip.similarities(images, captions[done : done + len(images)]))
                    done += len(images)
                    bar.update(len(images))
            return {"cosines": np.concatenate(found)}

        return cache.arrays("clip", key, make)["cosines"].astype(np.float64)
