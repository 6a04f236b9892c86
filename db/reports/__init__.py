"""Store and read the versions of a report."""
