"""The emoji data set in small."""

import csv
from pathlib import Path

from PIL import Image


def write_dataset(root: Path, emoji: int = 20) -> Path:
    """Emoji n with the English and Arabic names n, a keyword of its own and one that all share."""
    (root / "png72").mkdir(parents=True)
    with (root / "emoji_en_ar.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "char", "name_en", "keywords_en", "name_ar", "keywords_ar"])
        for n in range(emoji):
            Image.new("RGBA", (4, 4)).save(root / "png72" / f"emoji_u{n}.png")
            row = [f"emoji_u{n}.png", "x", f"Face {n}", f"face|Face {n}|grin {n}", f"وجه {n}", f"وجه|ابتسامة {n}"]
            table.writerow(row)
    return root
