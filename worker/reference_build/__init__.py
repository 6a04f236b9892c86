"""Build the reference index of a checkpoint from folders of cases; add and erase cases."""
