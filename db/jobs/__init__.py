"""Claim, finish and announce jobs: rows in PostgreSQL, wake-up messages in Redis."""
