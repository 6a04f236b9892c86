"""Starts the other packages: the command line, the embedded services, the demo."""
