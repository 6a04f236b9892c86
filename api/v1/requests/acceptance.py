"""Accept of a request: whether the client can read the media type of its response (RFC 9110 section 12.5.1)."""

from __future__ import annotations


def accepts(given: str | None, media_type: str) -> bool:
    """Return whether the value of Accept, *given*, permits *media_type*; a missing or empty one permits all.

    The most specific range decides, so that `*/*, image/png;q=0` excludes PNG.
    """
    kind = media_type.partition(";")[0].strip().lower()
    ranges = dict(map(_range, (given or "").lower().split(",")))
    ranges.pop("", None)
    matching = (kind, f"{kind.partition('/')[0]}/*", "*/*")
    return not ranges or next((ranges[one] for one in matching if one in ranges), 0.0) > 0


def _range(text: str) -> tuple[str, float]:
    """Return a media range with its weight; one that cannot be read is full."""
    kind, *parameters = (part.strip() for part in text.split(";"))
    weight = next((one[2:] for one in parameters if one.startswith("q=")), "1")
    try:
        return kind, float(weight)
    except ValueError:
        return kind, 1.0
