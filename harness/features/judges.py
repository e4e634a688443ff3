"""Classifiers of what captions say of an image, one for each attribute of a dataset that knows them."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras
import numpy as np

from harness.cache import Cache
from harness.features.devices import ForwardPass
from harness.features.small_network import BATCH, Plan, build_network, train_network
from harness.images import ImageSet
from harness.splits import SplitImages
from zoo.console import UserError, progress, say
from zoo.data.sources import Attribute

if TYPE_CHECKING:
    from zoo.data.images import Images

VERSION = 1  # of the networks and their training; a change makes cached ones stale


@dataclass(frozen=True)
class Judge:
    """A trained classifier of one attribute.

    Attributes:
        attribute: what it tells.
        network: images [B, H, W, C] -> (features, logits [B, words]).
        right: which of the held-out images it has right, bool [N].
        weights: hash of its weights.
    """

    attribute: Attribute
    network: keras.Model
    right: np.ndarray
    weights: str

    def see(self, images: ImageSet) -> np.ndarray:
        """The word of every image, int [N], as places in `attribute.words`."""
        forward = ForwardPass(self.network, BATCH)
        found = []
        title = f"{self.attribute.name} of {images.name}"
        with progress(images.count, title, "images", leave=False) as bar:
            for part, _ in images.batches(forward.at_once):
                found.append(forward(part)[1].argmax(axis=1))
                bar.update(len(part))
        return np.concatenate(found)


def wanted(captions: Sequence[str], attribute: Attribute) -> np.ndarray:
    """The word that each caption says of an attribute, int [N], as places in `attribute.words`.

    Raises:
        UserError: a caption says none, or several.
    """
    known = {word: place for place, word in enumerate(attribute.words)}
    places = []
    for caption in captions:
        said = [known[word] for word in caption.lower().split() if word in known]
        if len(said) != 1:
            raise UserError(
                f"caption '{caption}' must say exactly one {attribute.name} of {', '.join(attribute.words)}: it says "
                f"{len(said)}, so that no classifier can judge its image"
            )
        places += said
    return np.array(places)


def prepare(images: "Images", width: int, plan: Plan, cache: Cache) -> list[Judge]:
    """A judge for every attribute of the dataset, trained once on its train images and tested on its test images.

    Args:
        images: every value of every attribute must be among them, and every combination that is to be judged.
        width: channels of the first convolution.
        plan: of the training.
        cache: where networks are kept.
    """
    train, held_out = (SplitImages(images, split) for split in ("train", "test"))
    labels = held_out.all_labels()
    if labels is None:
        raise UserError(f"{held_out.name} has no classes: nothing says what its images show")
    judges = []
    for attribute in images.source.attributes:
        key = {"version": VERSION, "width": width, "plan": vars(plan), "attribute": attribute.name}
        key |= {"words": list(attribute.words), "train": train.fingerprint(), "held_out": held_out.fingerprint()}
        found = cache.arrays("judge", key, functools.partial(_train, train, held_out, attribute, width, plan))
        network = build_network(train.shape, len(attribute.words), width, plan.seed)
        weights = [found[f"weight{index:03d}"] for index in range(len(network.weights))]
        network.set_weights(weights)
        content = hashlib.sha256(b"".join(np.ascontiguousarray(weight).tobytes() for weight in weights))
        right = found["seen"] == np.array(attribute.of_class)[labels]
        judges.append(Judge(attribute, network, right, content.hexdigest()[:20]))
    return judges


def _train(train: ImageSet, held_out: ImageSet, attribute: Attribute, width: int, plan: Plan) -> dict[str, np.ndarray]:
    """Weights by position, and what the network sees in the held-out images."""
    images, labels = train.arrays()
    if labels is None:
        raise ValueError(f"{train.name} has no labels")
    values, title = np.array(attribute.of_class), f"judge of {attribute.name}"
    network = train_network(train.shape, len(attribute.words), width, plan, images, values[labels], title)
    judge = Judge(attribute, network, np.zeros(0, bool), "")
    seen, known = judge.see(held_out), held_out.all_labels()
    accuracy = np.mean(seen == values[known])
    say(f"{title}: trained on {len(images)} images, {accuracy:.1%} right on {len(seen)} held-out ones")
    weights = {f"weight{index:03d}": weight for index, weight in enumerate(network.get_weights())}
    return weights | {"seen": seen.astype(np.int64)}
