"""Inquiries about studies, questions and choices between diagnoses, and their answers."""
