"""The painted world: what an image can show, and the renderer.

A scene is one shape (or one digit) with a colour and a pattern on a background, seen under nuisance: size, shift,
rotation, flip, aspect, hue, light, blur, noise, a distractor. Every constant below was fixed before any model or method
was run.
"""

import random
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDE = 48  # pixels
SUPERSAMPLING = 2

COLOURS = {
    "red": (214, 40, 40), "orange": (244, 140, 30), "yellow": (246, 214, 50), "green": (50, 160, 60),
    "teal": (20, 140, 140), "blue": (45, 85, 215), "purple": (125, 50, 165), "pink": (248, 135, 185),
    "brown": (125, 75, 35), "black": (22, 22, 22), "white": (244, 244, 244), "gray": (130, 130, 130),
}  # fmt: skip
PATTERNS = ("plain", "striped", "dotted", "checkered", "hollow", "crossed", "zigzag", "shaded")
BACKGROUNDS = (
    (235, 235, 230), (200, 205, 210), (70, 75, 80), (15, 15, 20), (225, 205, 165), (165, 205, 235), (25, 35, 80),
)  # fmt: skip
SIZES = ("small", "large")
LIGHTS = ("dark", "normal", "bright")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

RADIUS = {"small": (9.0, 13.0), "large": (15.0, 20.0)}  # pixels, half the height of a shape
BRIGHTNESS = {"dark": (0.50, 0.72), "normal": (0.85, 1.15), "bright": (1.28, 1.50)}  # factor on all channels
LARGE, DARK, BRIGHT, BLURRED, DISTRACTED = 0.7, 0.12, 0.12, 0.15, 0.25  # probabilities
ROTATION = 25.0  # degrees, either way
HUE_JITTER, NOISE = 18.0, 22.0  # channel values out of 255
CONTRAST = 150.0  # least distance of a colour from its background, summed over the channels

Points = list[tuple[float, float]]  # corners, x right, y down


def _ring(points: int, radius=lambda angle: 1.0, start: float = -pi / 2, turn: float = 2 * pi) -> Points:
    """A curve around the origin, from the angle `start` on; its radius may depend on the angle turned so far."""
    angles = [turn * i / points for i in range(points + (turn != 2 * pi))]
    return [(radius(a) * cos(start + a), radius(a) * sin(start + a)) for a in angles]


def _mirrored(right: Points) -> Points:
    """The outline whose right half, from top to bottom, is given."""
    return right + [(-x, y) for x, y in reversed(right)]


def _moved(points: Points, x: float = 0.0, y: float = 0.0, by: float = 1.0, wide: float = 1.0) -> Points:
    """Scaled by `by`, its width by `wide` on top of that, then shifted."""
    return [(wide * by * px + x, by * py + y) for px, py in points]


def _outlines() -> dict[str, Points]:
    """Shape -> polygon in the square from -1 to 1. A hole is walked backwards over a seam of no width."""
    circle = _ring(40)
    top = [(0.0, -1.0)]
    hole = top + list(reversed(circle))
    leaf = _mirrored([(0.62 * sin(pi * t / 12) ** 1.2, t / 6 - 1) for t in range(13)])
    back = [(-0.22 + 0.73 * cos(t), -0.48 * sin(t)) for t in (pi - (pi - 0.2) * i / 14 for i in range(15))]
    tail = [(1.0, -0.55), (0.82, 0.0), (1.0, 0.55)]
    bit = [(0.14, 0.26), (0.46, 0.26), (0.46, 0.48), (0.14, 0.48), (0.14, 0.68), (0.56, 0.68), (0.56, 0.94),
           (0.14, 1.0)]  # fmt: skip
    return {
        "circle": circle,
        "oval": _moved(circle, wide=0.58),
        "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
        "trapezoid": [(-0.5, -0.7), (0.5, -0.7), (1.0, 0.7), (-1.0, 0.7)],
        "triangle": [(0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)],
        "house": _mirrored([(0.0, -1.0), (1.0, -0.15), (0.72, -0.15), (0.72, 0.9)]),
        "hexagon": _ring(6),
        "pentagon": _ring(5),
        "crescent": _moved(_ring(30, start=0.28 * pi, turn=1.44 * pi), x=0.15)
        + _moved(_ring(24, start=-1.333, turn=2.666 - 2 * pi), x=0.6, by=0.793),
        "semicircle": _moved(_ring(24, start=-pi, turn=pi), y=0.5),
        "ring": circle + top + _moved(hole, by=0.55),
        "gear": _ring(64, lambda a: 1.0 if a * 8 / (2 * pi) % 1 < 0.5 else 0.72) + top + _moved(hole, by=0.28),
        "star": _ring(10, lambda a: 1.0 if round(a * 5 / pi) % 2 == 0 else 0.42),
        "flower": _ring(72, lambda a: 0.72 + 0.28 * cos(6 * a)),
        "heart": [(sin(t) ** 3, -(13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)) / 16)
                  for t in (2 * pi * i / 40 for i in range(40))],
        "cloud": [(x, min(0.42, 0.72 * y)) for x, y in _ring(64, lambda a: 0.78 + 0.22 * abs(cos(2.5 * a)))],
        "leaf": leaf,
        "fish": back + tail + [(x, -y) for x, y in reversed(back)],
        "key": _moved(_ring(28, start=pi / 2 + 0.284, turn=2 * pi - 0.568), y=-0.5, by=0.5) + bit + [(-0.14, 1.0)],
        "arrow": _mirrored([(0.0, -1.0), (0.75, -0.2), (0.28, -0.2), (0.28, 1.0)]),
        "diamond": [(0.0, -1.0), (0.68, 0.0), (0.0, 1.0), (-0.68, 0.0)],
        "drop": _mirrored([(0.0, -1.0), (0.18, -0.6)] + [(0.62 * cos(t), 0.38 + 0.62 * sin(t))
                          for t in (-0.45 + (pi / 2 + 0.45) * i / 14 for i in range(15))]),
        "cross": _mirrored([(0.0, -0.9), (0.3, -0.9), (0.3, -0.3), (0.9, -0.3), (0.9, 0.3), (0.3, 0.3), (0.3, 0.9)]),
        "bolt": [(0.35, -1.0), (-0.55, 0.12), (-0.05, 0.12), (-0.35, 1.0), (0.55, -0.22), (0.05, -0.22)],
    }  # fmt: skip


OUTLINES = _outlines()
SHAPES = tuple(OUTLINES)  # visual neighbours stand side by side: 0 and 1, 2 and 3, ...
KINDS = SHAPES + DIGITS


def neighbour(shape: str) -> str:
    """The shape that looks most like this one."""
    return SHAPES[SHAPES.index(shape) ^ 1]


def held_out(shape: str, colour: str, pattern: str) -> bool:
    """A quarter of all combinations is never shown in pretraining; each shape, colour and pattern loses that share."""
    pair = SHAPES.index(shape) // 2
    return (pair + list(COLOURS).index(colour) + PATTERNS.index(pattern)) % 4 == 0


@dataclass(frozen=True)
class Scene:
    """What an image shows. `kind` is a shape or a digit; `species` is set if the scene was painted as one."""

    kind: str
    colour: str
    pattern: str
    size: str
    light: str
    blurred: bool
    species: str | None = None


def compose(kind: str, colour: str, pattern: str, rng: random.Random, species: str | None = None) -> Scene:
    """This thing, under a random size, light and blur."""
    size = "large" if rng.random() < LARGE else "small"
    draw = rng.random()
    light = "dark" if draw < DARK else "bright" if draw < DARK + BRIGHT else "normal"
    return Scene(kind, colour, pattern, size, light, rng.random() < BLURRED, species)


def render(scene: Scene, rng: random.Random) -> ndarray:
    """-> uint8 (SIDE, SIDE, 3). The same scene and the same state of `rng` give the same bytes."""
    angle = rng.uniform(-ROTATION, ROTATION) * pi / 180
    radius = rng.uniform(*RADIUS[scene.size])
    slack = SIDE / 2 - 0.8 * radius - 3
    centre = SIDE / 2 + rng.uniform(-slack, slack) * 0.6, SIDE / 2 + rng.uniform(-slack, slack) * 0.6
    if scene.kind in DIGITS:
        cover = _digit(scene.kind, radius, centre, angle, rng)
    else:
        cover = _shape(OUTLINES[scene.kind], radius, centre, angle, rng)
    if scene.pattern == "hollow":
        cover = cover - _eroded(cover, 3 if scene.size == "large" else 2)

    colour = _jittered(COLOURS[scene.colour], rng)
    ground = _jittered(rng.choice(_contrasting(scene.colour)), rng)
    canvas = _gradient(ground, rng)
    if rng.random() < DISTRACTED:
        canvas = _distracted(canvas, rng)
    tone = _texture(scene.pattern, radius, angle, rng)[..., None]  # share of the second tone
    other = colour * 0.3 + (0 if colour.mean() > 120 else 178)
    paint = colour * (1 - tone) + other * tone
    canvas = canvas * (1 - cover[..., None]) + paint * cover[..., None]
    return _photographed(canvas, scene, rng)


def _shape(outline: Points, radius: float, centre, angle: float, rng: random.Random) -> ndarray:
    """How much of each pixel the polygon covers: (SIDE, SIDE) in 0..1."""
    wide = rng.uniform(0.87, 1.15) * radius * rng.choice((-1, 1))
    c, s = cos(angle), sin(angle)
    turned = [(c * wide * x - s * radius * y, s * wide * x + c * radius * y) for x, y in outline]
    corners = [(SUPERSAMPLING * (centre[0] + x), SUPERSAMPLING * (centre[1] + y)) for x, y in turned]
    mask = Image.new("L", (SIDE * SUPERSAMPLING, SIDE * SUPERSAMPLING))
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    return np.asarray(mask.reduce(SUPERSAMPLING), np.float32) / 255


def _digit(name: str, radius: float, centre, angle: float, rng: random.Random) -> ndarray:
    """As `_shape`, for a glyph of Pillow's built-in font, in a random weight; never flipped."""
    size = SIDE * SUPERSAMPLING
    mask = Image.new("L", (size, size))
    font = ImageFont.load_default(size=2.6 * radius * SUPERSAMPLING)
    ImageDraw.Draw(mask).text((size / 2, size / 2), str(DIGITS.index(name)), fill=255, font=font, anchor="mm",
                              stroke_width=rng.choice((0, 1, 2, 3)))  # fmt: skip
    # PIL's transform maps output to input: undo shift, then rotation, then aspect.
    wide = rng.uniform(0.8, 1.2)
    c, s = cos(angle), sin(angle)
    x, y, half = SUPERSAMPLING * centre[0], SUPERSAMPLING * centre[1], size / 2
    undo = (c / wide, s / wide, half - (c * x + s * y) / wide, -s, c, half - (-s * x + c * y))
    mask = mask.transform((size, size), Image.Transform.AFFINE, undo, Image.Resampling.BILINEAR)
    return np.asarray(mask.reduce(SUPERSAMPLING), np.float32) / 255


def _eroded(cover: ndarray, pixels: int) -> ndarray:
    """(SIDE, SIDE) -> the same, with `pixels` taken away all around."""
    for _ in range(pixels):
        inner = np.zeros_like(cover)
        middle = cover[1:-1, 1:-1]
        across = np.minimum(cover[1:-1, :-2], cover[1:-1, 2:])
        down = np.minimum(cover[:-2, 1:-1], cover[2:, 1:-1])
        inner[1:-1, 1:-1] = np.minimum(middle, np.minimum(across, down))
        cover = inner
    return cover


_ROWS, _COLUMNS = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)


def _texture(pattern: str, radius: float, angle: float, rng: random.Random) -> ndarray:
    """Share of the second tone in each pixel: (SIDE, SIDE) in 0..1; edges are one pixel soft."""
    if pattern in ("plain", "hollow"):
        return np.zeros((SIDE, SIDE), np.float32)
    c, s = cos(angle), sin(angle)
    period = rng.uniform(0.40, 0.52) * radius + 2
    u = 2 * pi * ((c * _COLUMNS + s * _ROWS) / period + rng.random())
    v = 2 * pi * ((c * _ROWS - s * _COLUMNS) / period + rng.random())
    sharp = period / 4
    if pattern == "striped":
        wave = np.sin(v)
    elif pattern == "dotted":
        wave = np.cos(u) + np.cos(v) - 0.5
    elif pattern == "checkered":
        wave = np.sin(u) * np.sin(v) * 1.5
    elif pattern == "crossed":
        wave = np.maximum(np.sin((u + v) / 2), np.sin((u - v) / 2)) - 0.8
        sharp *= 1.5
    elif pattern == "zigzag":
        wave = np.sin(v + 2.2 * np.arcsin(np.sin(0.8 * u)))
    else:  # shaded: from one tone to the other across the shape
        across = (c * (_ROWS - SIDE / 2) - s * (_COLUMNS - SIDE / 2)) / radius
        return np.clip(0.5 + 0.6 * across, 0, 1) * 0.9
    return np.clip(0.5 + sharp * wave, 0, 1).astype(np.float32)


def _jittered(colour, rng: random.Random) -> ndarray:
    return np.array([channel + rng.uniform(-HUE_JITTER, HUE_JITTER) for channel in colour], np.float32)


def _contrasting(colour: str) -> list[tuple[int, int, int]]:
    """The backgrounds on which this colour can be seen."""
    distances = np.abs(np.subtract(BACKGROUNDS, COLOURS[colour])).sum(axis=1)
    return [ground for ground, distance in zip(BACKGROUNDS, distances, strict=True) if distance >= CONTRAST]


def _gradient(ground: ndarray, rng: random.Random) -> ndarray:
    """A background (SIDE, SIDE, 3) that grows darker or lighter in a random direction."""
    direction, strength = rng.uniform(0, 2 * pi), rng.uniform(0, 30)
    along = (cos(direction) * (_COLUMNS - SIDE / 2) + sin(direction) * (_ROWS - SIDE / 2)) / (SIDE / 2)
    return ground + strength * along[..., None]


def _distracted(canvas: ndarray, rng: random.Random) -> ndarray:
    """A small bar of any colour somewhere near the border, under the thing itself."""
    width, height = rng.randint(2, 9), rng.randint(2, 9)
    x = rng.choice((rng.randint(0, 7), SIDE - width - rng.randint(0, 7)))
    y = rng.randint(0, SIDE - height)
    if rng.random() < 0.5:
        x, y, width, height = y, x, height, width
    canvas[y : y + height, x : x + width] = COLOURS[rng.choice(list(COLOURS))]
    return canvas


def _photographed(canvas: ndarray, scene: Scene, rng: random.Random) -> ndarray:
    """Light, noise and blur: float (SIDE, SIDE, 3) -> uint8."""
    grain = np.frombuffer(rng.randbytes(canvas.size), np.uint8).reshape(canvas.shape) / np.float32(255) - 0.5
    canvas = canvas * rng.uniform(*BRIGHTNESS[scene.light]) + rng.uniform(0, NOISE) * grain
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    if scene.blurred:
        blur = ImageFilter.GaussianBlur(rng.uniform(0.9, 1.6))
        image = np.asarray(Image.fromarray(image).filter(blur))
    return image
