"""The 5/3 wavelet of JPEG 2000 (LeGall), by lifting: one level, real-valued, exactly invertible.

Borders are mirrored about the sample itself. The high bands come without the factor 1/2, and the low band without the
sqrt 2, of orthonormal conventions: per axis the low band of PyWavelets' `bior2.2` is sqrt 2 times this one, its high
band -1 / sqrt 2 times.
"""

from typing import Any

from keras import ops

HEIGHT, WIDTH = 1, 2


def decompose(x: Any) -> tuple[Any, Any]:
    """One level: x [B, H, W, C] with even H and W -> LL [B, H/2, W/2, C] and (LH, HL, HH) [B, H/2, W/2, 3C].

    LH is low along the width and high along the height.
    """
    low, high = _analyse(x, WIDTH)
    ll, lh = _analyse(low, HEIGHT)
    hl, hh = _analyse(high, HEIGHT)
    return ll, ops.concatenate([lh, hl, hh], axis=-1)


def compose(ll: Any, details: Any) -> Any:
    """The inverse of `decompose`: [B, h, w, C] and [B, h, w, 3C] -> [B, 2h, 2w, C]."""
    lh, hl, hh = ops.split(details, 3, axis=-1)
    return _synthesise(_synthesise(ll, lh, HEIGHT), _synthesise(hl, hh, HEIGHT), WIDTH)


def _analyse(x: Any, axis: int) -> tuple[Any, Any]:
    """Low band s and high band d along an axis, each of half its length.

    d_i = x_2i+1 - (x_2i + x_2i+2) / 2, then s_i = x_2i + (d_i-1 + d_i) / 4 (JPEG 2000, without rounding).
    """
    shape = x.shape
    even, odd = ops.unstack(
        ops.reshape(x, (-1, *shape[1:axis], shape[axis] // 2, 2, *shape[axis + 1 :])), 2, axis=axis + 1
    )
    d = odd - (even + _following(even, axis)) / 2
    return even + (_preceding(d, axis) + d) / 4, d


def _synthesise(s: Any, d: Any, axis: int) -> Any:
    """The same steps backwards."""
    even = s - (_preceding(d, axis) + d) / 4
    odd = d + (even + _following(even, axis)) / 2
    shape = s.shape
    return ops.reshape(ops.stack([even, odd], axis=axis + 1), (-1, *shape[1:axis], 2 * shape[axis], *shape[axis + 1 :]))


def _following(x: Any, axis: int) -> Any:
    """x_i+1; mirrored at the end, where x_2i+2 is x_2i again."""
    first, last = x[_cut(axis, 1, None)], x[_cut(axis, -1, None)]
    return ops.concatenate([first, last], axis=axis)


def _preceding(x: Any, axis: int) -> Any:
    """x_i-1; mirrored at the beginning, where d_-1 is d_0 again."""
    return ops.concatenate([x[_cut(axis, 0, 1)], x[_cut(axis, 0, -1)]], axis=axis)


def _cut(axis: int, start: int, stop: int | None) -> tuple[slice, ...]:
    return (*(slice(None) for _ in range(axis)), slice(start, stop))
