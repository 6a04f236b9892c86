"""Verify and deliver storage commitment results."""
