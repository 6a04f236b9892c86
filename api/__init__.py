"""Serve the read API and the page."""
