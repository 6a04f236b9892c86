"""Render decoded samples as 8-bit images: grayscale, colour, windows, framing, orientation."""
