"""Check a draft against itself, its headers and its evidence: a table of names and functions."""
