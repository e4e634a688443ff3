"""Draws the images of Shapes: signed distances, textures, light and shadow, over whole blocks of images at once.

Everything is a continuous function of the position in the image, so one scene looks the same at every resolution.
Points are float32 [N, S, S] coordinates; images run from -1 to 1 with y downward, outlines lie near radius 1.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from zoo.data.keyed import uniforms

Points = np.ndarray
GRAIN_TILE = 64  # side of the repeated tile of sensor noise
GRAIN = 0.008  # standard deviation of the noise at 32 pixels and more; 1 is white
SHADOW_DEPTH = 0.32
SHADOW_SOFTNESS = 0.4


# ---- outlines: negative inside, in units of the radius


def circle(x: Points, y: Points) -> Points:
    """Disc."""
    return np.sqrt(x * x + y * y) - 0.9


def ring(x: Points, y: Points) -> Points:
    """Band between two circles."""
    return np.abs(np.sqrt(x * x + y * y) - 0.68) - 0.27


def polygon(x: Points, y: Points, sides: int, apothem: float) -> Points:
    """Regular polygon with one side at the bottom: the largest distance to the line of a side."""
    angles = np.pi / 2 + 2 * np.pi * np.arange(sides) / sides
    lines = [x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle)) for angle in angles]
    return np.maximum.reduce(lines) - np.float32(apothem)


def triangle(x: Points, y: Points) -> Points:
    """Triangle that stands on a side."""
    return polygon(x, y + 0.05, 3, 0.56)


def square(x: Points, y: Points) -> Points:
    """Square, by its larger coordinate."""
    return np.maximum(np.abs(x), np.abs(y)) - 0.8


def hexagon(x: Points, y: Points) -> Points:
    """Hexagon that stands on a side."""
    return polygon(x, y, 6, 0.84)


def diamond(x: Points, y: Points) -> Points:
    """Rhombus taller than wide."""
    return (np.abs(x) * 1.45 + np.abs(y)) / np.float32(np.hypot(1.45, 1)) - np.float32(1.05 / np.hypot(1.45, 1))


def cross(x: Points, y: Points) -> Points:
    """Two bars of equal length."""
    across, along = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    return np.maximum(across - 0.92, along - 0.34)


def star(x: Points, y: Points) -> Points:
    """Five points: the angle is folded into half a point, whose edge is one straight line."""
    step = np.float32(2 * np.pi / 5)
    angle = np.arctan2(x, -y)
    folded = np.abs(angle - step * np.round(angle / step))
    radius = np.sqrt(x * x + y * y)
    outer, inner = 1.05, 0.5  # radii of the points and of the notches
    edge_x, edge_y = inner * np.cos(step / 2) - outer, inner * np.sin(step / 2)
    length = np.hypot(edge_x, edge_y)
    return (
        (radius * np.cos(folded) - outer) * np.float32(edge_y) - radius * np.sin(folded) * np.float32(edge_x)
    ) / np.float32(length)


def heart(x: Points, y: Points) -> Points:
    """Two discs above a square that stands on its corner."""
    x, y = np.abs(x), 0.12 - y
    lobes = np.sqrt((x - 0.44) ** 2 + (y - 0.36) ** 2) - 0.53
    wedge = np.maximum((x * 0.77 - (y + 0.98) * 0.638), y - 0.36)
    return np.minimum(lobes, wedge)


def crescent(x: Points, y: Points) -> Points:
    """A disc without the part that a second disc covers."""
    return np.maximum(np.sqrt((x - 0.2) ** 2 + y * y) - 0.95, 0.74 - np.sqrt((x - 0.63) ** 2 + y * y))


# ---- textures: share of the second colour, 0 to 1; `blur` is the width of a pixel in units of the radius


def plain(x: Points, y: Points, depth: Points, blur: Points) -> Points:
    """One colour."""
    return np.zeros_like(x)


def wave(value: Points, blur: Points) -> Points:
    """Square wave of period 1 whose edges are a pixel wide; it fades to grey where a pixel is wider than a band."""
    triangle_wave = np.abs(value - np.floor(value) - 0.5) - 0.25
    return np.clip(0.5 - triangle_wave / np.maximum(blur, 1e-3), 0, 1)


def striped(x: Points, y: Points, depth: Points, blur: Points) -> Points:
    """Stripes across the shape."""
    return wave(y * 1.35 + 0.25, blur * 1.35)


def checked(x: Points, y: Points, depth: Points, blur: Points) -> Points:
    """Chessboard."""
    across, down = wave(x * 1.25 + 0.25, blur * 1.25), wave(y * 1.25 + 0.25, blur * 1.25)
    return across + down - 2 * across * down


def dotted(x: Points, y: Points, depth: Points, blur: Points) -> Points:
    """Discs on a square lattice."""
    column, row = x * 1.9, y * 1.9 + 0.2
    column, row = column - np.round(column), row - np.round(row)
    return np.clip(0.5 - (np.sqrt(column * column + row * row) - 0.3) / (1.9 * blur), 0, 1)


def banded(x: Points, y: Points, depth: Points, blur: Points) -> Points:
    """Bands that follow the outline."""
    return wave(depth * 1.7 + 0.3, blur * 1.7)


class Look(NamedTuple):
    """What all members of a class share."""

    colour: str
    texture: str
    shape: str
    outline: Callable[[Points, Points], Points]
    pattern: Callable[[Points, Points, Points, Points], Points]
    first: tuple[float, float, float]  # RGB, 0 to 1
    second: tuple[float, float, float]  # the texture's other colour


LOOKS = (
    Look("red", "striped", "circle", circle, striped, (0.86, 0.11, 0.13), (0.99, 0.80, 0.74)),
    Look("blue", "checked", "square", square, checked, (0.10, 0.27, 0.85), (0.68, 0.82, 1.00)),
    Look("green", "dotted", "triangle", triangle, dotted, (0.10, 0.60, 0.20), (0.85, 0.98, 0.62)),
    Look("yellow", "plain", "star", star, plain, (1.00, 0.88, 0.12), (1.00, 0.88, 0.12)),
    Look("purple", "striped", "cross", cross, striped, (0.46, 0.15, 0.68), (0.84, 0.68, 0.97)),
    Look("orange", "plain", "ring", ring, plain, (0.98, 0.49, 0.06), (0.98, 0.49, 0.06)),
    Look("white", "plain", "crescent", crescent, plain, (0.97, 0.97, 0.93), (0.97, 0.97, 0.93)),
    Look("turquoise", "banded", "hexagon", hexagon, banded, (0.05, 0.66, 0.66), (0.72, 0.98, 0.93)),
    Look("pink", "plain", "heart", heart, plain, (0.97, 0.42, 0.66), (0.97, 0.42, 0.66)),
    Look("black", "dotted", "diamond", diamond, dotted, (0.10, 0.10, 0.12), (0.86, 0.86, 0.86)),
)

BACKGROUNDS = (
    ("grey", (0.55, 0.56, 0.58)),
    ("beige", (0.80, 0.72, 0.58)),
    ("sky blue", (0.55, 0.73, 0.90)),
    ("navy blue", (0.13, 0.18, 0.38)),
    ("maroon", (0.45, 0.14, 0.18)),
    ("olive", (0.48, 0.48, 0.20)),
    ("dark green", (0.12, 0.33, 0.24)),
    ("lilac", (0.66, 0.58, 0.80)),
    ("brown", (0.46, 0.31, 0.20)),
    ("charcoal", (0.20, 0.21, 0.23)),
)


class Scenes(NamedTuple):
    """What varies between N images; every array is float32 [N, ...] but the two of integers."""

    label: np.ndarray  # int [N], which look
    background: np.ndarray  # int [N], index into BACKGROUNDS
    centre: np.ndarray  # [N, 2]
    radius: np.ndarray  # [N], in half image sides
    angle: np.ndarray  # [N], radians
    light: np.ndarray  # [N], direction that the light comes from, radians
    exposure: np.ndarray  # [N], brightness factor
    tint: np.ndarray  # [N, 3], colour of the light
    haze: np.ndarray  # [N], share of the background's colour in the shape's, 0 to 1
    shade: np.ndarray  # [N, 3], colour shift of the shape
    slope: np.ndarray  # [N, 2], gradient of the background
    ripple: np.ndarray  # [N, 4], background's wave: frequency along x and y, phase, strength
    grain: np.ndarray  # int [N, 2], where the noise tile begins


def render(scenes: Scenes, size: int, looks: tuple[Look, ...] = LOOKS) -> np.ndarray:
    """Draws N scenes at size x size pixels, uint8 [N, S, S, 3]; their labels count `looks`."""
    ticks = ((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1)[None]
    x, y = np.broadcast_to(ticks[:, None, :], (1, size, size)), np.broadcast_to(ticks[:, :, None], (1, size, size))
    pixels = _background(scenes, x, y)
    for label in np.unique(scenes.label):
        rows = np.flatnonzero(scenes.label == label)
        chosen = Scenes(*(values[rows] for values in scenes))
        pixels[rows] = _draw(pixels[rows], chosen, looks[label], x, y)
    pixels *= (scenes.exposure[:, None] * scenes.tint)[:, None, None, :]
    pixels += _grain(scenes.grain, size)
    return (np.clip(pixels, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _column(values: np.ndarray) -> np.ndarray:
    """[N] as [N, 1, 1], to go with points."""
    return values.astype(np.float32)[:, None, None]


def _background(scenes: Scenes, x: Points, y: Points) -> np.ndarray:
    """Colour gradient with a soft wave, brighter towards the light, float32 [N, S, S, 3]."""
    colours = np.array([colour for _, colour in BACKGROUNDS], np.float32)[scenes.background]
    across, down, phase, strength = (_column(values) for values in scenes.ripple.T)
    level = 1 + _column(scenes.slope[:, 0]) * x + _column(scenes.slope[:, 1]) * y
    level = level + strength * np.sin(across * x + down * y + phase)
    return level[..., None] * colours[:, None, None, :]


def _draw(pixels: np.ndarray, scenes: Scenes, look: Look, x: Points, y: Points) -> np.ndarray:
    """Puts the shapes of one class and their shadows on backgrounds."""
    radius, blur = _column(scenes.radius), 2 / (x.shape[-1] * _column(scenes.radius))
    cos, sin = _column(np.cos(scenes.angle)), _column(np.sin(scenes.angle))
    moved_x, moved_y = (x - _column(scenes.centre[:, 0])) / radius, (y - _column(scenes.centre[:, 1])) / radius
    local_x, local_y = moved_x * cos + moved_y * sin, moved_y * cos - moved_x * sin
    towards_x, towards_y = np.cos(scenes.light), np.sin(scenes.light)
    solid = 1 - _column(scenes.haze)

    # The shadow falls away from the light: the outline once more, shifted and soft.
    away_x = _column(0.22 * (towards_x * np.cos(scenes.angle) + towards_y * np.sin(scenes.angle)))
    away_y = _column(0.22 * (towards_y * np.cos(scenes.angle) - towards_x * np.sin(scenes.angle)))
    shadow = np.clip(0.5 - look.outline(local_x + away_x, local_y + away_y) / (SHADOW_SOFTNESS + blur), 0, 1)
    pixels = pixels * (1 - SHADOW_DEPTH * solid * shadow)[..., None]

    depth = look.outline(local_x, local_y)
    share = look.pattern(local_x, local_y, depth, blur)[..., None]
    first, second = np.array(look.first, np.float32), np.array(look.second, np.float32)
    colours = first + scenes.shade[:, None, None, :] + share * (second - first)
    shine = 1 + 0.22 * (moved_x * _column(towards_x) + moved_y * _column(towards_y))
    rim = 1 - 0.25 * np.clip(1 + depth / 0.14, 0, 1)  # the edge turns away from the eye
    cover = (np.clip(0.5 - depth / blur, 0, 1) * solid)[..., None]
    return pixels + cover * (colours * (shine * rim)[..., None] - pixels)


def _grain(starts: np.ndarray, size: int) -> np.ndarray:
    """Sensor noise [N, S, S, 3]: windows of one fixed tile; at small sizes as weak as if it had been averaged."""
    tile = _tile() * np.float32(min(1.0, size / 32))
    rows = (starts[:, :1] + np.arange(size)) % GRAIN_TILE
    columns = (starts[:, 1:] + np.arange(size)) % GRAIN_TILE
    return tile[rows[:, :, None], columns[:, None, :]]


@functools.cache
def _tile() -> np.ndarray:
    """float32 [GRAIN_TILE, GRAIN_TILE, 3]: nearly normal noise, sums of four uniforms scaled to GRAIN."""
    draws = uniforms((0, 0), np.arange(GRAIN_TILE * GRAIN_TILE), 12).reshape(GRAIN_TILE, GRAIN_TILE, 3, 4)
    return (GRAIN * np.sqrt(3) * (draws.sum(axis=-1) - 2)).astype(np.float32)
