"""Which steps of a trained process a sampler visits (Improved DDPM, section 4; the published step notation)."""


def retained_steps(steps: int, spacing: int | str) -> list[int]:
    """The steps of a process of `steps` steps that `spacing` keeps, in ascending order.

    Args:
        steps: T, the number of steps the network was trained with.
        spacing: a count (evenly spread, end points included), "ddimN" (a fixed integer stride giving exactly
            N steps, as in the DDIM paper) or a list of counts "90,50,40,40,30", one for each equal section of
            the process.

    Returns:
        Indices into 0 .. T - 1.

    Raises:
        ValueError: when more steps are asked for than there are, or no integer stride gives "ddimN".
    """
    text = str(spacing).strip()
    if text.startswith("ddim"):
        count = _count(text[4:], text)
        for stride in range(1, steps):
            if len(range(0, steps, stride)) == count:
                return list(range(0, steps, stride))
        raise ValueError(f"steps '{text}': no integer stride through {steps} steps visits exactly {count}")
    return _sections(steps, [_count(part, text) for part in text.split(",")], text)


def _count(text: str, spacing: str) -> int:
    if not text.strip().isdigit() or int(text) < 1:
        raise ValueError(f"steps must be a count, 'ddimN' or a list of counts such as '90,50,40', got '{spacing}'")
    return int(text)


def _sections(steps: int, counts: list[int], spacing: str) -> list[int]:
    size, extra = divmod(steps, len(counts))
    kept: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        length = size + (1 if section < extra else 0)
        if length < count:
            raise ValueError(f"steps '{spacing}': a section of {length} steps cannot be divided into {count} steps")
        # The stride is accumulated and rounded half to even, as the published models were sampled.
        stride = 1.0 if count <= 1 else (length - 1) / (count - 1)
        position = 0.0
        for _ in range(count):
            kept.append(start + round(position))
            position += stride
        start += length
    return sorted(set(kept))
