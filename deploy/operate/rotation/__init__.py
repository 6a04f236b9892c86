"""Rotate the passwords of PostgreSQL and Redis while the processes run."""
