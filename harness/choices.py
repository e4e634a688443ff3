"""What command lines name: feature networks, resize filters and metrics by short words."""

from collections.abc import Mapping
from typing import Any

from harness import likeness
from harness.features.network import FeatureNetwork
from harness.images import ImageSet, RealImages
from harness.metrics.metric import Metric
from zoo import registry
from zoo.console import UserError

# Word of --metrics -> component. Two words may name one component: precision comes with recall.
METRICS: Mapping[str, str] = {
    "fid": "FID",
    "sfid": "SFID",
    "is": "InceptionScore",
    "is_adm": "ADMInceptionScore",
    "kid": "KID",
    "precision": "PrecisionRecall",
    "recall": "PrecisionRecall",
    "cas": "ClassificationAccuracy",
    "full_cas": "ResNetAccuracy",
}
# By default: ADM's and CDM's protocols with Inception; with a classifier of the dataset what needs no spatial features.
OF_INCEPTION = ("fid", "sfid", "is_adm", "is", "kid", "precision")
OF_CLASSIFIER = ("fid", "is", "kid", "precision", "cas")
RESIZES: Mapping[str, str] = {
    "tf1": "TF1Bilinear",
    "clean": "CleanBicubic",
    "bicubic": "QuantisedBicubic",
    "lanczos": "QuantisedLanczos",
}


def feature_network(spelling: str, resize: str | None = None, epochs: int = 3) -> FeatureNetwork:
    """The network that `classifier`, `inception` or `inception:WEIGHTS` names.

    Args:
        resize: a word of `RESIZES`, for Inception; None leaves its own.
        epochs: of the classifier's training.

    Raises:
        UserError: it names none.
    """
    kind, _, weights = spelling.partition(":")
    if kind == "classifier":
        if weights or resize:
            raise UserError("the classifier is trained here and sees images at their own size: no weights, no --resize")
        return _load("DatasetClassifier")(epochs=epochs)
    if kind == "inception":
        settings: dict[str, Any] = {"weights": weights} if weights else {}
        if resize is not None:
            settings["resize"] = _load(_word(resize, RESIZES, "--resize"))()
        return _load("Inception")(**settings)
    raise UserError(f"--features must be classifier, inception or inception:WEIGHTS, got {spelling!r}")


def default_features(reference: ImageSet) -> str:
    """The network that a reference asks for: statistics are Inception's unless they say otherwise."""
    given = reference.statistics
    if given is None or (given.extractor is not None and "accuracy" in given.extractor):
        return "classifier"
    return "inception"


def chosen_metrics(names: str) -> list[Metric]:
    """The metrics of a list such as `fid,kid,precision`, each once, in this order.

    Raises:
        UserError: an unknown name.
    """
    words = [word.strip() for word in names.split(",") if word.strip()]
    if not words:
        raise UserError(f"--metrics must name at least one of {', '.join(METRICS)}")
    return [_load(name)() for name in dict.fromkeys(_word(word, METRICS, "--metrics") for word in words)]


def clip_score(weights: str, captions: str | None) -> Metric:
    """The CLIP score by the weights of a folder, with the captions of a file or of the samples."""
    return _load("CLIPScore")(weights=weights, captions=captions)


def default_metrics(features: FeatureNetwork, real: RealImages, samples: ImageSet) -> tuple[list[Metric], list[str]]:
    """The metrics of the papers' protocols that the two sides allow, and a named warning for each that they do not."""
    from harness.features.classifier import DatasetClassifier  # imports TensorFlow

    metrics: list[Metric] = []
    left_out: list[str] = []
    for word in OF_CLASSIFIER if isinstance(features, DatasetClassifier) else OF_INCEPTION:
        if word == "cas" and not samples.classes:
            continue  # unlabelled samples are common, and nothing is wrong with them
        metric = _load(METRICS[word])()
        try:
            likeness.check_needs(metric, features, real.reference, samples)
        except UserError as reason:
            left_out.append(f"left-out: {reason}")
            continue
        metrics.append(metric)
    return metrics, left_out


def _load(name: str) -> type:
    found = registry.load().components.get(name)
    if found is None:
        raise UserError(f"registry.yaml has no component {name}")
    return found.load()


def _word(word: str, allowed: Mapping[str, str], option: str) -> str:
    if word not in allowed:
        raise UserError(f"{option} must be of {', '.join(allowed)}, got {word!r}")
    return allowed[word]
