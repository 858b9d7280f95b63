"""Silhouettes of each category and shape: lists of strokes, drawn in order, on a square from -1 to 1 with y pointing down.

Tones: `body` has the lot's colour, `shade` is darker and `tint` lighter. `trim` is a random metal or wood, `dark` and `pale`
are neutral, and `hole` lets the background show through.
"""

from dataclasses import dataclass
from typing import Literal

Tone = Literal["body", "shade", "tint", "trim", "dark", "pale", "hole"]


@dataclass(frozen=True, slots=True)
class Stroke:
    """One mark of a silhouette.

    Attributes:
        kind: "oval", "box", "polygon" or "line".
        tone: tone of the mark.
        at: coordinates x, y, x, y, …: two corners of an oval or a box, or the points of a polygon or a line.
        width: width of a line, in the unit of `at`; 0 for other kinds.
    """

    kind: str
    tone: Tone
    at: tuple[float, ...]
    width: float = 0.0


def oval(tone: Tone, *at: float) -> Stroke:
    """Return an ellipse between two corners."""
    return Stroke("oval", tone, at)


def box(tone: Tone, *at: float) -> Stroke:
    """Return a rectangle with rounded corners."""
    return Stroke("box", tone, at)


def poly(tone: Tone, *at: float) -> Stroke:
    """Return a filled polygon."""
    return Stroke("polygon", tone, at)


def line(tone: Tone, width: float, *at: float) -> Stroke:
    """Return a line through points."""
    return Stroke("line", tone, at, width)


_STRAP = [box("body", -0.22, -0.95, 0.22, 0.95)]
_HANDS = [line("dark", 0.06, 0, -0.28, 0, 0, 0.2, 0.12), box("trim", 0.42, -0.06, 0.52, 0.06)]
_FRAME = [box("trim", -0.85, -0.7, 0.85, 0.7), box("body", -0.7, -0.55, 0.7, 0.55)]
_NECK = [box("trim", -0.07, -0.95, 0.07, 0.1), box("dark", -0.13, -0.98, 0.13, -0.78)]
_WHEELS = [
    oval("dark", -0.68, 0.2, -0.28, 0.6),
    oval("dark", 0.28, 0.2, 0.68, 0.6),
    oval("pale", -0.54, 0.34, -0.42, 0.46),
    oval("pale", 0.42, 0.34, 0.54, 0.46),
]
_SPOUT = [line("body", 0.16, 0.4, 0.3, 0.7, 0, 0.85, -0.25)]
_KNOB = [oval("shade", -0.1, -0.72, 0.1, -0.5)]

SILHOUETTES: dict[str, dict[str, list[Stroke]]] = {
    "watch": {
        "round": [*_STRAP, oval("trim", -0.48, -0.48, 0.48, 0.48), oval("pale", -0.37, -0.37, 0.37, 0.37), *_HANDS],
        "square": [*_STRAP, box("trim", -0.46, -0.46, 0.46, 0.46), box("pale", -0.35, -0.35, 0.35, 0.35), *_HANDS],
    },
    "vase": {
        "round": [
            oval("body", -0.68, -0.35, 0.68, 0.85),
            box("body", -0.22, -0.75, 0.22, 0),
            oval("shade", -0.32, -0.82, 0.32, -0.66),
        ],
        "tall": [
            poly("body", -0.3, -0.9, 0.3, -0.9, 0.4, 0.9, -0.4, 0.9),
            oval("shade", -0.3, -0.98, 0.3, -0.82),
            line("shade", 0.05, -0.35, 0.3, 0.35, 0.3),
        ],
        "flared": [
            poly("body", -0.75, -0.8, 0.75, -0.8, 0.15, 0.2, 0.3, 0.85, -0.3, 0.85, -0.15, 0.2),
            oval("shade", -0.75, -0.9, 0.75, -0.7),
        ],
    },
    "ring": {
        "plain": [
            oval("trim", -0.7, -0.7, 0.7, 0.7),
            oval("body", -0.64, -0.64, 0.64, 0.64),
            oval("hole", -0.42, -0.42, 0.42, 0.42),
        ],
        "jewelled": [
            oval("trim", -0.55, -0.25, 0.55, 0.85),
            oval("hole", -0.4, -0.1, 0.4, 0.7),
            poly("body", -0.42, -0.55, -0.2, -0.85, 0.2, -0.85, 0.42, -0.55, 0, -0.1),
            poly("tint", -0.15, -0.55, 0.15, -0.55, 0, -0.2),
        ],
    },
    "guitar": {
        "acoustic": [
            oval("body", -0.38, -0.15, 0.38, 0.45),
            oval("body", -0.5, 0.2, 0.5, 0.95),
            *_NECK,
            oval("dark", -0.16, 0.1, 0.16, 0.42),
        ],
        "winged": [
            poly("body", 0, -0.05, 0.65, 0.95, 0.3, 0.95, 0, 0.5, -0.3, 0.95, -0.65, 0.95),
            *_NECK,
            line("dark", 0.07, -0.15, 0.25, 0.15, 0.25),
        ],
        "double-horned": [
            poly("body", -0.5, -0.2, -0.25, 0.1, 0.25, 0.1, 0.5, -0.2, 0.4, 0.3, 0.5, 0.85, 0, 0.95, -0.5, 0.85, -0.4, 0.3),
            *_NECK,
            box("pale", -0.2, 0.35, 0.3, 0.6),
        ],
    },
    "camera": {
        "boxy": [box("body", -0.6, -0.6, 0.6, 0.65), oval("dark", -0.3, -0.25, 0.3, 0.35), oval("pale", -0.1, -0.05, 0.1, 0.15)],
        "slim": [
            box("body", -0.9, -0.35, 0.9, 0.45),
            box("trim", -0.9, -0.45, 0.9, -0.2),
            oval("dark", -0.3, -0.25, 0.3, 0.35),
            box("pale", 0.5, -0.4, 0.75, -0.25),
        ],
        "twin-lens": [
            box("body", -0.42, -0.9, 0.42, 0.9),
            oval("dark", -0.27, -0.6, 0.27, -0.06),
            oval("dark", -0.27, 0.1, 0.27, 0.64),
            oval("pale", -0.09, 0.28, 0.09, 0.46),
        ],
    },
    "handbag": {
        "bucket": [
            oval("shade", -0.4, -0.95, 0.4, 0.2),
            oval("hole", -0.3, -0.83, 0.3, 0.1),
            poly("body", -0.65, -0.2, 0.65, -0.2, 0.45, 0.85, -0.45, 0.85),
        ],
        "flat": [
            box("body", -0.9, -0.4, 0.9, 0.5),
            poly("shade", -0.9, -0.4, 0.9, -0.4, 0, 0.15),
            oval("trim", -0.1, 0.02, 0.1, 0.22),
        ],
        "half-moon": [
            oval("trim", -0.5, -0.9, 0.5, 0.5),
            oval("hole", -0.4, -0.8, 0.4, 0.4),
            poly("body", -0.9, 0, 0.9, 0, 0.75, 0.5, 0.35, 0.8, -0.35, 0.8, -0.75, 0.5),
        ],
    },
    "chair": {
        "armless": [
            box("body", -0.4, -0.9, 0.3, 0.1),
            box("shade", -0.45, 0.05, 0.5, 0.25),
            line("trim", 0.1, -0.38, 0.2, -0.42, 0.95),
            line("trim", 0.1, 0.42, 0.2, 0.48, 0.95),
        ],
        "winged": [
            box("body", -0.75, -0.8, 0.75, 0.6),
            box("shade", -0.5, 0.0, 0.5, 0.45),
            box("tint", -0.8, -0.1, -0.5, 0.65),
            box("tint", 0.5, -0.1, 0.8, 0.65),
            line("trim", 0.12, -0.6, 0.6, -0.6, 0.9),
            line("trim", 0.12, 0.6, 0.6, 0.6, 0.9),
        ],
        "backless": [
            oval("body", -0.6, -0.35, 0.6, 0.05),
            line("trim", 0.11, -0.4, 0, -0.6, 0.9),
            line("trim", 0.11, 0.4, 0, 0.6, 0.9),
            line("trim", 0.09, -0.5, 0.5, 0.5, 0.5),
        ],
    },
    "coin": {
        "circular": [
            oval("shade", -0.8, -0.8, 0.8, 0.8),
            oval("body", -0.7, -0.7, 0.7, 0.7),
            oval("tint", -0.25, -0.4, 0.25, 0.15),
            poly("tint", -0.4, 0.5, -0.15, 0.1, 0.15, 0.1, 0.4, 0.5),
        ],
        "octagonal": [
            poly("shade", -0.35, -0.85, 0.35, -0.85, 0.85, -0.35, 0.85, 0.35, 0.35, 0.85, -0.35, 0.85, -0.85, 0.35, -0.85, -0.35),
            poly("body", -0.3, -0.72, 0.3, -0.72, 0.72, -0.3, 0.72, 0.3, 0.3, 0.72, -0.3, 0.72, -0.72, 0.3, -0.72, -0.3),
            oval("tint", -0.25, -0.4, 0.25, 0.15),
            poly("tint", -0.4, 0.5, -0.15, 0.1, 0.15, 0.1, 0.4, 0.5),
        ],
        "pierced": [oval("shade", -0.8, -0.8, 0.8, 0.8), oval("body", -0.7, -0.7, 0.7, 0.7), box("hole", -0.22, -0.22, 0.22, 0.22)],
    },
    "lamp": {
        "domed": [
            oval("body", -0.75, -0.9, 0.75, 0.5),
            box("hole", -0.9, -0.15, 0.9, 0.6),
            line("trim", 0.1, 0, -0.2, 0, 0.8),
            oval("trim", -0.4, 0.7, 0.4, 0.95),
        ],
        "conical": [
            poly("body", -0.25, -0.9, 0.25, -0.9, 0.75, 0, -0.75, 0),
            line("trim", 0.1, 0, 0, 0, 0.8),
            oval("trim", -0.4, 0.7, 0.4, 0.95),
        ],
        "hanging": [
            line("trim", 0.06, 0, -1, 0, -0.3),
            poly("body", -0.2, -0.35, 0.2, -0.35, 0.8, 0.3, -0.8, 0.3),
            oval("pale", -0.2, 0.2, 0.2, 0.6),
        ],
    },
    "painting": {
        "portrait": [*_FRAME, oval("pale", -0.18, -0.42, 0.18, 0.06), poly("shade", -0.45, 0.55, -0.2, 0.1, 0.2, 0.1, 0.45, 0.55)],
        "landscape": [
            *_FRAME,
            poly("shade", -0.7, 0.55, -0.7, 0.2, -0.25, -0.2, 0.1, 0.2, 0.4, -0.05, 0.7, 0.3, 0.7, 0.55),
            oval("tint", 0.3, -0.45, 0.6, -0.15),
        ],
        "abstract": [
            *_FRAME,
            poly("tint", -0.6, 0.45, -0.3, -0.4, 0, 0.45),
            oval("dark", 0.1, -0.4, 0.55, 0.05),
            line("shade", 0.12, -0.6, -0.3, 0.6, 0.4),
        ],
    },
    "teapot": {
        "round": [
            *_SPOUT,
            oval("trim", -0.95, -0.2, -0.35, 0.45),
            oval("hole", -0.82, -0.08, -0.35, 0.33),
            oval("body", -0.6, -0.45, 0.6, 0.75),
            *_KNOB,
        ],
        "tall": [
            line("body", 0.14, 0.3, 0.2, 0.6, -0.3, 0.75, -0.6),
            oval("trim", -0.85, -0.5, -0.2, 0.5),
            oval("hole", -0.72, -0.38, -0.2, 0.38),
            poly("body", -0.28, -0.6, 0.28, -0.6, 0.42, 0.85, -0.42, 0.85),
            oval("shade", -0.12, -0.85, 0.12, -0.58),
        ],
        "square": [
            *_SPOUT,
            box("trim", -0.95, -0.25, -0.4, 0.4),
            box("hole", -0.82, -0.12, -0.4, 0.28),
            box("body", -0.55, -0.5, 0.55, 0.65),
            *_KNOB,
        ],
    },
    "clock": {
        "arched": [
            oval("body", -0.55, -0.8, 0.55, 0.4),
            box("body", -0.55, -0.2, 0.55, 0.75),
            box("shade", -0.75, 0.65, 0.75, 0.85),
            oval("pale", -0.35, -0.55, 0.35, 0.15),
            line("dark", 0.06, 0, -0.45, 0, -0.2, 0.2, -0.1),
        ],
        "circular": [
            oval("body", -0.8, -0.8, 0.8, 0.8),
            oval("pale", -0.58, -0.58, 0.58, 0.58),
            line("dark", 0.07, 0, -0.45, 0, 0, 0.3, 0.18),
        ],
        "longcase": [
            box("body", -0.32, -0.95, 0.32, 0.95),
            oval("pale", -0.22, -0.82, 0.22, -0.38),
            line("dark", 0.05, 0, -0.75, 0, -0.6, 0.1, -0.55),
            box("shade", -0.15, -0.2, 0.15, 0.6),
            line("trim", 0.05, 0, -0.2, 0, 0.4),
        ],
    },
    "toy car": {
        "open-top": [
            poly("body", -0.9, 0.4, -0.9, 0, 0.2, 0, 0.35, 0.05, 0.9, 0.1, 0.9, 0.4),
            line("trim", 0.06, 0.2, 0, 0.05, -0.35),
            *_WHEELS,
        ],
        "van": [box("body", -0.85, -0.5, 0.85, 0.42), box("pale", 0.35, -0.38, 0.8, -0.05), *_WHEELS],
        "streamlined": [
            oval("body", -0.95, -0.15, 0.95, 0.85),
            box("hole", -1, 0.42, 1, 1),
            oval("body", -0.45, -0.45, 0.4, 0.3),
            oval("pale", -0.25, -0.35, 0.3, -0.02),
            *_WHEELS,
        ],
    },
    "mirror": {
        "oval": [
            oval("body", -0.6, -0.9, 0.6, 0.9),
            oval("pale", -0.42, -0.7, 0.42, 0.7),
            line("tint", 0.05, -0.2, 0.3, 0.25, -0.3),
        ],
        "rectangular": [
            box("body", -0.6, -0.9, 0.6, 0.9),
            box("pale", -0.42, -0.72, 0.42, 0.72),
            line("tint", 0.05, -0.2, 0.3, 0.25, -0.3),
        ],
        "sunburst": [
            poly(
                "body",
                0, -0.95, 0.2, -0.5, 0.67, -0.67, 0.5, -0.2, 0.95, 0, 0.5, 0.2, 0.67, 0.67, 0.2, 0.5,
                0, 0.95, -0.2, 0.5, -0.67, 0.67, -0.5, 0.2, -0.95, 0, -0.5, -0.2, -0.67, -0.67, -0.2, -0.5,
            ),
            oval("pale", -0.36, -0.36, 0.36, 0.36),
        ],
    },
}  # fmt: skip
