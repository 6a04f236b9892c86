"""Measure a checkpoint on cases with known reports."""
