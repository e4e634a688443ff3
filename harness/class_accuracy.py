"""Where samples teach a classifier more than real images, class by class: CDM's figures 7, 11 and 12 as pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness import charts
from harness.images import ImageSet, Selection
from zoo.console import UserError
from zoo.whole_files import write_bytes

SHOWN = 6  # classes in a picture of the best or worst, as in the paper
COLUMNS = 8  # samples of each


@dataclass(frozen=True)
class ClassAccuracy:
    """Top-1 accuracy by class on the same test images; float64 [classes].

    Attributes:
        samples, real: of the classifiers that were trained on samples and on real images; NaN where a class has no
            test images.
    """

    samples: np.ndarray
    real: np.ndarray

    @classmethod
    def of_result(cls, result: Mapping[str, Any]) -> "ClassAccuracy | None":
        """From `by_class` of a result; None where no classification accuracy score was computed."""
        found = result.get("by_class")
        if not found:
            return None
        images = np.array(found["images"], np.float64)
        images[images == 0] = np.nan
        return cls(np.array(found["samples_top1"]) / images, np.array(found["real_top1"]) / images)

    @property
    def differences(self) -> np.ndarray:
        """How far the samples are ahead [classes with test images]."""
        found = self.samples - self.real
        return found[~np.isnan(found)]

    @property
    def above(self) -> int:
        """Number of classes in which the samples do better."""
        return int((self.differences > 0).sum())

    def best(self) -> list[int]:
        """The classes in which the samples are furthest ahead, the furthest first; at most half of all."""
        return self._ordered()[::-1][: self._shown]

    def worst(self) -> list[int]:
        """The classes in which the samples are furthest behind, the furthest first; at most half of all."""
        return self._ordered()[: self._shown]

    def describe(self, number: int) -> str:
        """'class 282: 0.80 by samples, 0.62 by real images'."""
        return f"class {number}: {self.samples[number]:.2f} by samples, {self.real[number]:.2f} by real images"

    @property
    def _shown(self) -> int:
        return min(SHOWN, len(self.differences) // 2)

    def _ordered(self) -> list[int]:
        """Classes with test images, from the furthest behind to the furthest ahead."""
        order = np.argsort(self.samples - self.real, kind="stable")[: len(self.differences)]  # NaN comes last
        return [int(number) for number in order]


def class_rows(samples: ImageSet, classes: Sequence[int], columns: int = COLUMNS) -> np.ndarray:
    """The first samples of some classes, a row for each: uint8 [len(classes) * columns, H, W, C]; white where none."""
    labels = samples.all_labels()
    if labels is None:
        raise UserError(f"{samples.name} has no labels (arr_1): classes cannot be shown")
    rows = np.full((len(classes), columns, *samples.shape), 255, np.uint8)
    found = [np.flatnonzero(labels == number)[:columns] for number in classes]
    wanted = np.sort(np.concatenate(found))
    if len(wanted):
        images, _ = Selection(samples, wanted).arrays()
        for row, places in zip(rows, found, strict=True):
            row[: len(places)] = images[np.searchsorted(wanted, places)]
    return rows.reshape(-1, *samples.shape)


def write_pictures(result: Mapping[str, Any], samples: ImageSet | None, stem: Path) -> list[Path]:
    """Writes STEM-classes.png (figure 7), STEM-best-classes.png and STEM-worst-classes.png (figures 11 and 12).

    Args:
        result: of an evaluation with a classification accuracy score.
        samples: that were scored; without them only the first picture is made.

    Returns:
        What was written; nothing where the result has no score by class.
    """
    from zoo.data.pictures import write_grid

    accuracy = ClassAccuracy.of_result(result)
    if accuracy is None:
        return []
    written = [stem.with_name(f"{stem.name}-classes.png")]
    write_bytes(written[0], charts.to_png(charts.draw_classes(accuracy)))
    if samples is not None and samples.classes:
        scale = max(1, 64 // samples.shape[0])
        for kind, classes in (("best", accuracy.best()), ("worst", accuracy.worst())):
            path = stem.with_name(f"{stem.name}-{kind}-classes.png")
            write_grid(path, class_rows(samples, classes), COLUMNS, scale)
            written.append(path)
    return written
