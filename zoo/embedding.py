"""The embeddings of captions that training needs, computed before it; for samples see `sampling.keep_captions`."""

from zoo.learner import Learner


def for_training(stage: Learner, seed: int) -> None:
    """Those of the training images, and of the test images that grids and the selection of checkpoints imitate.

    Args:
        stage: with or without a text.
        seed: of the run.

    Raises:
        UserError: the encoder is not here, and its embeddings are not either.
    """
    images, monitoring = stage.images, stage.training.monitoring
    if images.text is None:
        return
    images.keep_captions()
    count = monitoring.grid_images if monitoring.grid_every else 0
    count = max(count, monitoring.selection.images if monitoring.selection else 0)
    if count:
        examples = images.examples("test", count=count, seed=seed).as_numpy_iterator()
        first = [example["captions"].decode().split("\n")[0] for example in examples]
        images.text.keep(first, f"captions of {count:,} test images")
