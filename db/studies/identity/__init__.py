"""Keep the objects of different patients under one Study Instance UID apart: compare, hold, decide."""
