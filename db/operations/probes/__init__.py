"""Report the condition of a process to health probes, with the standard library only."""
