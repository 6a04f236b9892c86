"""Erase a patient from database, files, reference index and, after a restore, from what a backup brought back."""
