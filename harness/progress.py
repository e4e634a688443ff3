"""The progress line of long work: one look for all of it."""

from tqdm import tqdm


def progress(total: int, title: str, unit: str) -> tqdm:
    """A line with the time left, of less than 80 columns, that goes away when the work is done."""
    return tqdm(total=total, desc=title, unit=unit, ncols=79, mininterval=0.5, leave=False)
