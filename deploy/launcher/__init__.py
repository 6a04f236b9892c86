"""Start, watch, restart and stop the processes of one machine."""
