"""Parse the `prelim` commands, call, translate errors; one file a subject."""
