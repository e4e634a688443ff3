"""Which steps of a trained process a sampler visits (Improved DDPM, section 4; the published step notation)."""

import numpy as np


def retained_steps(steps: int, spacing: int | str) -> list[int]:
    """The steps of a process of `steps` steps that `spacing` keeps, in ascending order.

    Args:
        steps: T, the number of steps the network was trained with.
        spacing: a count (evenly spread, end points included), "ddimN" (a fixed integer stride giving exactly
            N steps, as in the DDIM paper) or a list of counts "90,50,40,40,30", one for each equal section of
            the process; a section may have none.

    Returns:
        Indices into 0 .. T - 1.

    Raises:
        ValueError: when more steps are asked for than there are, or no integer stride gives "ddimN".
    """
    text = str(spacing).strip()
    if text.startswith("ddim"):
        return _strided(steps, _count(text[4:], text), text)
    counts = [_count(part, text) for part in text.split(",")]
    if len(counts) > steps:
        raise ValueError(f"steps '{text}': {steps} steps cannot be divided into {len(counts)} sections")
    return _sections(steps, counts, text)


def spread_times(spacing: int | str) -> np.ndarray:
    """The times that `spacing` means of a process in continuous time, ascending in (0, 1].

    Args:
        spacing: a count N or "ddimN", 1/N .. 1, or a list of counts, as many evenly in each equal section of time.

    Raises:
        ValueError: it is none of these, or has no step at t = 1, where sampling starts.
    """
    text = str(spacing).strip()
    counts = [_count(part, text) for part in text.removeprefix("ddim").split(",")]
    if counts[-1] < 1:
        raise ValueError(f"steps '{text}': sampling starts in the last section, which must have a step")
    sections = [
        (section + np.arange(1, count + 1) / max(count, 1)) / len(counts) for section, count in enumerate(counts)
    ]
    return np.concatenate(sections)


def _count(text: str, spacing: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"steps must be a count, 'ddimN' or a list of counts such as '90,50,40', got '{spacing}'")
    return int(text)


def _strided(steps: int, count: int, spacing: str) -> list[int]:
    # visited steps -> stride; of two that visit as many the smaller one
    strides = {-(-steps // stride): stride for stride in range(steps - 1, 0, -1)}
    if count in strides:
        return list(range(0, steps, strides[count]))
    if count > steps:
        raise ValueError(f"steps '{spacing}': the process has {steps} steps, so at most 'ddim{steps}'")
    below = [found for found in strides if found < count]
    beside = [*below[-1:], min(found for found in strides if found > count)]
    nearest = " or ".join(f"'ddim{found}'" for found in beside)
    raise ValueError(
        f"steps '{spacing}': no integer stride through {steps} steps visits exactly {count}; the nearest: {nearest}"
    )


def _sections(steps: int, counts: list[int], spacing: str) -> list[int]:
    size, extra = divmod(steps, len(counts))
    kept: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        length = size + (1 if section < extra else 0)
        if length < count:
            where = f"section {section + 1} of {len(counts)}" if len(counts) > 1 else "the process"
            raise ValueError(f"steps '{spacing}': {where} has {length} steps, and {count} of them are asked for")
        # The stride is accumulated and rounded half to even, as the published models were sampled.
        stride = 1.0 if count <= 1 else (length - 1) / (count - 1)
        position = 0.0
        for _ in range(count):
            kept.append(start + round(position))
            position += stride
        start += length
    return sorted(set(kept))
