"""Render the page that radiologists read, as HTML."""
