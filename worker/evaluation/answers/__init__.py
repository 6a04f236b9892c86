"""Measure answers to questions and choices between diagnoses on cases with known answers, and fit their confidence."""
