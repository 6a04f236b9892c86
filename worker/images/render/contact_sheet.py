"""Contact sheet: every selected image with the reason for its selection."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.images.study_images import RenderedImage, StudyImages

#: Pixels: maximum side of an image, height of the text below it, gap between cells.
_SIDE, _TEXT_HEIGHT, _GAP = 320, 76, 12
_COLUMNS = 4
#: Characters of a line below an image.
_LINE_LENGTH = 46
_BACKGROUND, _TEXT, _WARNING = (24, 24, 28), (230, 230, 230), (255, 176, 80)


def contact_sheet(study: StudyImages, limitations: Sequence[str] = ()) -> Image.Image:
    """Draw *study* as one RGB image: its basis above, a cell for each image, *limitations* below."""
    columns = min(_COLUMNS, max(1, len(study.images)))
    rows = -(-len(study.images) // columns)
    sentences = [*study.limitations(), *limitations]
    lines = [line for sentence in sentences for line in wrap(sentence, _LINE_LENGTH * columns)]
    width = columns * (_SIDE + _GAP) + _GAP
    height = 40 + rows * (_SIDE + _TEXT_HEIGHT + _GAP) + 16 * len(lines) + _GAP
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    title = f"{study.modality} {study.body_part}".rstrip() + f": {study.basis}"
    draw.text((_GAP, _GAP), title, _TEXT, ImageFont.load_default(16))
    for number, image in enumerate(study.images):
        left = _GAP + number % columns * (_SIDE + _GAP)
        _cell(sheet, draw, image, left, 40 + number // columns * (_SIDE + _TEXT_HEIGHT + _GAP))
    draw.multiline_text((_GAP, height - 16 * len(lines) - _GAP), "\n".join(lines), _WARNING, spacing=4)
    return sheet


def _cell(sheet: Image.Image, draw: ImageDraw.ImageDraw, image: RenderedImage, left: int, top: int) -> None:
    thumbnail = Image.fromarray(image.pixels)
    thumbnail.thumbnail((_SIDE, _SIDE))
    # At the top of its cell, so that the text is directly below it.
    sheet.paste(thumbnail, (left, top))
    line = top + thumbnail.height + 4
    for text, colour in [(image.reason, _TEXT), *((warning, _WARNING) for warning in image.warnings)]:
        for part in wrap(text, _LINE_LENGTH):
            draw.text((left, line), part, colour)
            line += 16
