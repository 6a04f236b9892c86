"""Run `prelim demo` and hold the checkpoint shipped for it."""
