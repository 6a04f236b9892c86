"""A contact sheet for people: a row for each kind of image, one finding a cell, named below."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from worker.phantoms import grammar
from worker.phantoms.cases import CATALOGUE, CHEST_RARE, UNCLASSIFIED, Case, Finding, Kind
from worker.phantoms.phantoms import CAREFUL, draw

if TYPE_CHECKING:
    from pathlib import Path

CELL, CAPTION, COLUMNS = 128, 14, 9


def write_sheet(path: Path, *, seed: int = 0) -> None:
    """Write the sheet as an image of its file name's format."""
    rng = np.random.default_rng(seed)
    cells = [_row(rng, image) for image in CATALOGUE]
    rows = [part[start : start + COLUMNS] for part in cells for start in range(0, len(part), COLUMNS)]
    sheet = Image.new("RGB", (COLUMNS * CELL, len(rows) * (CELL + CAPTION)), "white")
    pen = ImageDraw.Draw(sheet)
    for top, row in enumerate(rows):
        for left, (name, case) in enumerate(row):
            at = left * CELL, top * (CELL + CAPTION)
            sheet.paste(Image.fromarray(draw(case, size=CELL, variation=CAREFUL).rgb()), at)
            pen.text((at[0] + 2, at[1] + CELL + 1), name, "black", font_size=9)
    sheet.save(path, optimize=True, quality=80)


def _row(rng: np.random.Generator, image: str) -> list[tuple[str, Case]]:
    """A normal image, then one of every finding; for the chest the rare ones and an object without a name, too."""
    kinds = CATALOGUE[image] + (CHEST_RARE if image == "chest" else ())
    findings = [()] + [(_example(rng, kind),) for kind in kinds]
    named = [(_name(image, shown), Case(image, int(rng.integers(2**31)), shown)) for shown in findings]
    odd = [(UNCLASSIFIED, Case(image, int(rng.integers(2**31)), odd=True))] if image == "chest" else []
    return named + odd


def _example(rng: np.random.Generator, kind: Kind) -> Finding:
    side = str(rng.choice(["left", "right"])) if kind.sided else ""
    zone = str(rng.choice(["upper", "middle", "lower"])) if kind.zoned else ""
    return Finding(kind.name, side, zone, str(rng.choice(kind.sizes)) if kind.sizes else "")


def _name(image: str, findings: tuple[Finding, ...]) -> str:
    words = " ".join(grammar.phrase(finding, 2) for finding in findings) or f"{image}, normal"
    return words if len(words) <= CELL // 5 else words[: CELL // 5 - 2] + ".."
