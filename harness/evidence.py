"""The two sides of a comparison as features: from images, from statistics in a file, or from both."""

from harness.cache import Cache
from harness.features.network import Extractor, extract, extract_cached
from harness.images import ImageSet
from harness.metrics.metric import Evidence, Features
from harness.statistics_files import Statistics
from zoo.console import UserError


def usable_statistics(images: ImageSet, network: Extractor) -> Statistics | None:
    """The statistics that came with a set, where they are of this network.

    Raises:
        UserError: they are not, and there are no images in their place.
    """
    given = images.statistics
    if given is None:
        return None
    problem = given.misfit(network.facts)
    if problem is None:
        return given
    if not images.has_images:
        raise UserError(problem)
    return None


def reference_evidence(images: ImageSet, network: Extractor, keep: frozenset[str], cache: Cache) -> Evidence:
    """Features of the real side, remembered.

    Statistics in the file take the place of those of its images, which are often only some of those behind them:
    ADM's reference batches have mean and covariance of the training set, and 10,000 images for precision and recall.

    Args:
        keep: what metrics need beside the moments of the pooled features: 'pooled', 'logits', 'spatial'.
    """
    title = f"features of {images.name}"
    given = usable_statistics(images, network)
    if given is None:
        return Evidence(images, extract_cached(images, network, keep, title, cache))
    own = keep & {"pooled"} if given.vectors else frozenset[str]()
    own |= keep & {"spatial"} if given.spatial is not None else frozenset[str]()
    lacking = keep - own - {"logits"}  # the inception score, which asks for them, is of the samples alone
    rest = None
    if lacking and images.has_images:
        rest = extract_cached(images, network, lacking, title, cache)
    return Evidence(
        images,
        Features(
            given.moments,
            given.pooled() if "pooled" in own else rest.pooled if rest else None,
            None,
            given.spatial if "spatial" in own else rest.spatial if rest else None,
        ),
    )


def sample_evidence(images: ImageSet, network: Extractor, keep: frozenset[str]) -> Evidence:
    """Features of the samples: of their images wherever there are any."""
    if images.has_images:
        return Evidence(images, extract(images, network, keep, f"features of {images.name}"))
    given = usable_statistics(images, network)
    if given is None:
        raise UserError(f"{images.name} holds neither images nor statistics")
    pooled = given.pooled() if "pooled" in keep and given.vectors else None
    return Evidence(images, Features(given.moments, pooled, None, given.spatial))
