"""Decide who may read."""
