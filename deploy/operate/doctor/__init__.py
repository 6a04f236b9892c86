"""Examine an installation: checks that state what was found, why it matters and what to do."""
