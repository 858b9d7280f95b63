"""Render photos of synthetic lots: a silhouette in the lot's colour and condition, made to look like an amateur's photo."""

import io
import math

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from catalog.silhouettes import SILHOUETTES, Stroke

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (196, 38, 40),
    "yellow": (232, 196, 44),
    "green": (52, 138, 62),
    "blue": (44, 88, 190),
    "purple": (128, 60, 160),
    "black": (38, 37, 42),
    "white": (240, 238, 234),
    "brown": (120, 76, 42),
}
CONDITIONS = ("pristine", "scratched", "cracked")
_TRIMS = ((176, 160, 120), (160, 165, 170), (140, 118, 96), (112, 116, 122))
_OVERSAMPLING = 2  # factor by which lot and ground are drawn larger and then reduced, for smooth edges


def render(category: str, shape: str, colour: str, condition: str, rng: Generator, size: int = 256) -> bytes:
    """Return the photo of one lot on a cluttered ground: rotated, scaled, unevenly lit and with sensor noise.

    Args:
        category: a key of SILHOUETTES.
        shape: a key of SILHOUETTES[category].
        colour: a key of COLOURS.
        condition: one of CONDITIONS.
        rng: random generator of everything else.
        size: side of the photo in pixels.

    Returns:
        A JPEG file.
    """
    lot = _draw_lot(SILHOUETTES[category][shape], COLOURS[colour], condition, rng, size * _OVERSAMPLING)
    lot = _place(lot, rng, size)
    photo = _background(rng, size * _OVERSAMPLING).resize((size, size), Image.Resampling.BOX)
    shadow = lot.getchannel("A").point(lambda a: a * 0.45).filter(ImageFilter.BoxBlur(size / 40))
    offset = int(size * rng.uniform(0.02, 0.05))
    photo.paste((15, 14, 12), (offset, offset), shadow)
    photo.paste(lot, (0, 0), lot)
    buffer = io.BytesIO()
    _expose(photo, rng).save(buffer, "JPEG", quality=int(rng.integers(72, 92)))
    return buffer.getvalue()


def _draw_lot(strokes: list[Stroke], colour: tuple[int, int, int], condition: str, rng: Generator, side: int) -> Image.Image:
    """Draw the lot upright on a transparent ground."""
    body = np.clip(np.array(colour) * rng.uniform(0.85, 1.12) + rng.normal(0, 9, 3), 0, 255)
    tones = {
        "body": body,
        "shade": body * 0.68,
        "tint": body * 0.6 + 102,
        "trim": np.array(_TRIMS[rng.integers(len(_TRIMS))]),
        "dark": np.array((48, 47, 52)),
        "pale": np.array((222, 220, 212)),
    }
    inks = {name: (*(int(c) for c in np.clip(tone, 0, 255)), 255) for name, tone in tones.items()} | {"hole": (0, 0, 0, 0)}
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    stretch = rng.uniform(0.9, 1.1, 2)
    for stroke in strokes:
        xy = [side * (0.5 + 0.42 * value * stretch[i % 2]) for i, value in enumerate(stroke.at)]
        _draw_stroke(draw, stroke, xy, inks[stroke.tone], side)
    if condition != "pristine":
        _damage(image, condition, body, rng)
    return image


def _draw_stroke(draw: ImageDraw.ImageDraw, stroke: Stroke, xy: list[float], ink: tuple[int, ...], side: int) -> None:
    match stroke.kind:
        case "oval":
            draw.ellipse(xy, fill=ink)
        case "box":
            draw.rounded_rectangle(xy, radius=side * 0.03, fill=ink)
        case "polygon":
            draw.polygon(xy, fill=ink)
        case "line":
            draw.line(xy, fill=ink, width=max(2, round(stroke.width * side * 0.42)), joint="curve")


def _damage(image: Image.Image, condition: str, body: np.ndarray, rng: Generator) -> None:
    """Draw the damage: few jagged dark cracks (light ones on a dark lot), or many short, straight, parallel scratches."""
    alpha = image.getchannel("A")
    left, top, right, bottom = alpha.getbbox() or (0, 0, *image.size)
    centre, reach = np.array([(left + right) / 2, (top + bottom) / 2]), max(right - left, bottom - top) / 2
    marks = Image.new("L", image.size, 0)
    draw = ImageDraw.Draw(marks)
    dark_lot = float(body.mean()) < 90
    angle = rng.uniform(0, math.pi)
    if condition == "cracked":
        for _ in range(int(rng.integers(1, 3))):
            draw.line(_jagged(centre, reach, angle, rng), fill=255, width=max(2, image.width // 36))
            angle += rng.uniform(0.7, 1.6)
        ink = (205, 200, 190) if dark_lot else (22, 18, 16)
    else:
        direction = np.array([math.cos(angle), math.sin(angle)])
        for _ in range(int(rng.integers(9, 15))):
            start = centre + rng.uniform(-0.8, 0.8, 2) * reach
            draw.line([*start, *(start + direction * reach * rng.uniform(0.25, 0.5))], fill=225, width=max(1, image.width // 64))
        ink = (110, 105, 98) if float(body.mean()) > 200 else (235, 232, 225)
    image.paste((*ink, 255), (0, 0), ImageChops.multiply(marks, alpha))


def _jagged(centre: np.ndarray, reach: float, angle: float, rng: Generator) -> list[float]:
    along = np.array([math.cos(angle), math.sin(angle)])
    across = np.array([-along[1], along[0]])
    start = centre + across * rng.uniform(-0.35, 0.35) * reach
    steps = np.linspace(-1, 1, 9)
    points = [start + along * reach * step + across * reach * rng.uniform(-0.16, 0.16) for step in steps]
    return [float(value) for point in points for value in point]


def _place(lot: Image.Image, rng: Generator, side: int) -> Image.Image:
    """Rotate, scale and shift the lot, and reduce it to `side` pixels."""
    turn, scale = math.radians(rng.normal(0, 9)), 1 / rng.uniform(0.68, 1.05)
    cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
    mirror = 1 if rng.random() < 0.5 else -1
    half = side / 2
    x, y = half + rng.uniform(-0.07, 0.07, 2) * side
    matrix = (mirror * cos, mirror * sin, half - mirror * (cos * x + sin * y), -sin, cos, half + sin * x - cos * y)
    reduced = [value * _OVERSAMPLING for value in matrix]
    return lot.transform((side, side), Image.Transform.AFFINE, reduced, Image.Resampling.BILINEAR)


def _background(rng: Generator, side: int) -> Image.Image:
    """Draw a two-tone ground with muted objects."""
    ground = rng.uniform(95, 200) + rng.normal(0, 14, (2, 3))
    ramp = np.linspace(0, 1, side)[:, None, None]
    rows = ground[0] * (1 - ramp) + ground[1] * ramp  # (side, 1, 3)
    image = Image.fromarray(np.broadcast_to(np.clip(rows, 0, 255), (side, side, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(3, 8))):
        x, y = rng.uniform(-0.1, 1.0, 2) * side
        w, h = rng.uniform(0.08, 0.45, 2) * side
        ink = tuple(int(c) for c in np.clip(rng.uniform(70, 215) + rng.normal(0, 16, 3), 0, 255))
        (draw.ellipse if rng.random() < 0.4 else draw.rectangle)((x, y, x + w, y + h), fill=ink)
    return image


def _expose(photo: Image.Image, rng: Generator) -> Image.Image:
    """Add uneven light, a colour cast and noise."""
    pixels = np.asarray(photo, dtype=np.float32)
    size = pixels.shape[0]
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    slope_x, slope_y = rng.uniform(-0.16, 0.16, 2)
    light = rng.uniform(0.82, 1.12) + slope_x * axis[None, :, None] + slope_y * axis[:, None, None]
    cast = rng.normal(1, 0.03, 3).astype(np.float32)
    noise = rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(rng.uniform(3, 9))
    return Image.fromarray(np.clip(pixels * light * cast + noise, 0, 255).astype(np.uint8))
