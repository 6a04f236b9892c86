"""Load the checkpoint and keep it resident; the only serving code that imports torch."""
