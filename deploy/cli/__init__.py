"""Parse the `prelim` commands, call their functions and print their errors; one module for each subject."""
