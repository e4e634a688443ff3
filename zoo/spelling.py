"""The nearest right name, for the messages about wrong ones."""

import difflib
from collections.abc import Iterable


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`, letter case aside; None where none is like it.

    Args:
        name: what was written.
        candidates: what could have been meant.
    """
    ordered = sorted(candidates)
    # One wrong letter of two is still a likely slip: sx for sr.
    cutoff = 0.6 if len(name) > 4 else 0.5
    exact = difflib.get_close_matches(name, ordered, 1, cutoff)
    by_lower = {candidate.lower(): candidate for candidate in reversed(ordered)}
    loose = difflib.get_close_matches(name.lower(), by_lower, 1, cutoff)
    if loose and by_lower[loose[0]].lower() == name.lower():
        return by_lower[loose[0]]
    return exact[0] if exact else (by_lower[loose[0]] if loose else None)


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """The end of a message: the nearest name, or else what there is to choose from."""
    ordered = sorted(candidates)
    best = nearest(name, ordered)
    if best is not None:
        return f"did you mean '{best}'?"
    if not ordered:
        return "there are none"
    shown = ", ".join(ordered[:12]) + (", ..." if len(ordered) > 12 else "")
    return f"there is {shown}"
