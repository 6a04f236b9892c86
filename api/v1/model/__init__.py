"""Publish the card of the served models."""
