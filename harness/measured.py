"""How the numbers of a result are read and shown: their order, digits and titles."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.console import UserError

# Key in result['metrics'] -> digits after the point, metric of the published tables, key of its deviation.
# A number that the papers do not print keeps its own name there, so that no published column takes it in.
SHOWN: Mapping[str, tuple[int, str, str | None]] = {
    "fid": (2, "fid", None),
    "fid_held_out": (2, "fid", None),
    "sfid": (2, "sfid", None),
    "is_mean": (2, "is", "is_std"),
    "is_adm": (2, "is", None),
    "is_one_split": (2, "is_one_split", None),
    "is_shuffled": (2, "is_shuffled", None),
    "is_adm_shuffled": (2, "is_adm_shuffled", None),
    "kid": (5, "kid", None),
    "kid_error": (5, "kid_error", None),
    "precision": (3, "precision", None),
    "recall": (3, "recall", None),
    "cas_top1": (3, "cas_top1", None),
    "cas_top5": (3, "cas_top5", None),
    "classes_above_real": (0, "classes_above_real", None),
    "clip_score": (3, "clip", "clip_score_error"),
    "caption_accuracy": (3, "caption_accuracy", None),
    "caption_accuracy_seen": (3, "caption_accuracy_seen", None),
    "caption_accuracy_unseen": (3, "caption_accuracy_unseen", None),
}
# Of a number that is shown, and not numbers of their own.
DEVIATIONS = frozenset({"is_std", "kid_std", "clip_score_error"})
# Which way a number is better; one that is neither, such as an error or another cut of a score, chooses nothing.
LOWER_IS_BETTER = frozenset({"fid", "fid_held_out", "sfid", "kid"})
HIGHER_IS_BETTER = frozenset(
    {"is_mean", "is_adm", "precision", "recall", "cas_top1", "cas_top5", "clip_score"}
    | {"caption_accuracy", "caption_accuracy_seen", "caption_accuracy_unseen"}
)


def read_result(path: Path) -> dict[str, Any]:
    """One result.json.

    Raises:
        UserError: it is not there, or is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: give a work directory or a result.json") from error
    except ValueError as error:
        raise UserError(f"{path} is no result ({error}): run the evaluation again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no result: give a work directory or a result.json")
    return content


def show(numbers: Mapping[str, float], key: str) -> str:
    """A measured cell, with its deviation where it has one; a dash where it was not measured."""
    value = numbers.get(key)
    if value is None:
        return "-"
    digits, _, deviation = SHOWN.get(key, (4, key, None))
    spread = numbers.get(deviation) if deviation else None
    return f"{value:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def published_metric(key: str) -> str:
    """The name of the metric in the published tables."""
    return SHOWN[key][1] if key in SHOWN else key


def keys(result: Mapping[str, Any]) -> list[str]:
    """The metrics of a result in the order in which they are shown; deviations stand beside their means."""
    found = [key for key in SHOWN if key in result["metrics"]]
    return found + [key for key in result["metrics"] if key not in SHOWN and key not in DEVIATIONS]


def place(result: Mapping[str, Any]) -> str:
    """Dataset and resolution; the latter is 0 where two files of statistics do not say it."""
    size = result["resolution"]
    return f"{result['dataset']} {size}x{size}" if size else str(result["dataset"])


def title(result: Mapping[str, Any], key: str) -> str:
    """The protocol of one number."""
    return result["protocol"].get(key, key)
