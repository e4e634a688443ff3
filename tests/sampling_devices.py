"""Sampling in processes of its own; test_sampling.py says what is expected of them.

python sampling_devices.py mirrored FOLDER     on one and on two logical CPU devices; features of images likewise
python sampling_devices.py worker FOLDER       as one of the workers of TF_CONFIG
python sampling_devices.py killed FOLDER N     ends by SIGKILL in the middle of the N-th file that it writes

Sample sets go to FOLDER/NAME/STAGE, figures to FOLDER/NAME.json.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tiny
import untrained

from harness.cache import Cache
from harness.features.classifier import DatasetClassifier
from harness.features.network import extract
from harness.splits import real_images
from zoo import recipe
from zoo.data.crops import CenterCrop
from zoo.data.images import Images
from zoo.data.shapes import Shapes
from zoo.learner import Learner
from zoo.pipeline import Stage
from zoo.sampling import Guide, StageSampler, sample_stage
from zoo.training import randomness

MONITORED = 5  # images of a grid, say: fewer than a batch


def mirrored(folder: Path) -> dict[str, Any]:
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    one, two = tf.distribute.OneDeviceStrategy("CPU:0"), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with one.scope():
        sample(folder / "one")
        images, _ = monitored(tiny.stage("base"))
        pulled = guided()
        of_one = features(folder / "cache_one")
    with two.scope():
        sample(folder / "two")
        same_images, traces = monitored(tiny.stage("base"))
        same_pulled = guided()
        of_two = features(folder / "cache_two")
    return {
        "replicas": two.num_replicas_in_sync,
        "same_images": bool(np.array_equal(images, same_images)),
        "same_guided": bool(np.array_equal(pulled, same_pulled)),
        "traces": traces,
        "features": {name: float(np.abs(of_one[name] - of_two[name]).max()) for name in of_one},
    }


def worker(folder: Path) -> dict[str, Any]:
    """The chief alone draws a grid; then each worker makes its part of the set."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    number = strategy.cluster_resolver.task_id
    with strategy.scope():
        stage = tiny.stage("base")
        network = network_of(stage)
        chief = monitored(stage, network)[0] if number == 0 else np.zeros(0)
        sample(folder / "workers", (number + 1, 2), ("base",))
        count = features(folder / f"cache_{number}")["count"] if number == 0 else np.zeros(())
        context = tf.distribute.get_replica_context
        done = tf.function(lambda: strategy.run(lambda: context().all_reduce(tf.distribute.ReduceOp.SUM, tf.ones(()))))
        done()  # no worker leaves before the others
    return {"workers": strategy.num_replicas_in_sync, "images": len(chief), "features_of": int(count)}


def killed(folder: Path, write: int) -> None:
    left = [write]
    sync = os.fsync

    def dying(descriptor: int) -> None:
        left[0] -= 1
        if not left[0]:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    os.fsync = dying
    sample(folder / "killed", names=("base",))


# ---- what they do


def network_of(stage: Learner) -> keras.Model:
    """The network of a stage in the current strategy, every weight moved a little: the last layer begins at zero."""
    network = stage.build_network(seed=0)
    for index, variable in enumerate(network.trainable_variables):
        variable.assign(variable + 0.1 * tf.random.stateless_normal(variable.shape, [7, index]))
    return network


def sample(folder: Path, part: tuple[int, int] = (1, 1), names: tuple[str, ...] = ("base", "sr")) -> None:
    """The sample sets of the tiny cascade."""
    pipeline = tiny.pipeline()
    before = None
    for stage in pipeline.stages[: len(names)]:
        place = folder / stage.name
        identity = {"stage": stage.name}
        sample_stage(stage, network_of(stage), pipeline.samples, place, identity, 0, before, (), part)
        before = place


def monitored(stage: Stage, network: keras.Model | None = None) -> tuple[np.ndarray, int]:
    """Images as a monitor of training draws them, and how often the walk was traced for several numbers of them."""
    network = network or network_of(stage)
    sampler = StageSampler(stage, network, MONITORED)
    key = randomness.key(0, "monitor")
    weights = [variable.value for variable in network.trainable_variables]
    for count in (sampler.at_once, 1, MONITORED):
        indices = np.arange(count)
        images = sampler.sample(key, indices, {"label": indices % 10}, weights)
    return images, sampler._walk.experimental_get_tracing_count()


def guided() -> np.ndarray:
    """Images of an untrained model that a classifier guides."""
    stage = recipe.load(untrained.GUIDED, ["base/ClassifierGuidance.scale = 3"]).build().cascade[0]
    for part in (stage, stage.classifier):
        part.network = untrained.network_of(part)
    network, guide = network_of(stage), Guide(network_of(stage.classifier), stage.classifier.process)
    sampler, indices = StageSampler(stage, network, MONITORED, guide), np.arange(MONITORED)
    weights = [variable.value for variable in network.trainable_variables]
    return sampler.sample(randomness.key(0, "guided"), indices, {"label": indices}, weights)


def features(cache: Path) -> dict[str, np.ndarray]:
    """Of a classifier that is trained here, on its training images: two batches and a part of one."""
    real = real_images(Images(Shapes(train=620, test=60), size=16, crop=CenterCrop()), "train")
    network = DatasetClassifier(width=4, epochs=1, batch=64).prepare(real, Cache(cache))
    found = extract(real.reference, network, frozenset({"pooled", "logits"}), "features")
    moments = found.moments
    return {
        "count": np.array(moments.count),
        "network": np.array(int(network.identity, 16) % 2**53),
        "pooled": found.pooled,
        "logits": found.logits,
        "mean": moments.mean,
        "scatter": moments.scatter,
    }


if __name__ == "__main__":
    kind, target = sys.argv[1], Path(sys.argv[2])
    if kind == "killed":
        killed(target, int(sys.argv[3]))
    else:
        number = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {}).get("index", "")
        figures = mirrored(target) if kind == "mirrored" else worker(target)
        (target / f"{kind}{number}.json").write_text(json.dumps(figures))
