"""Define the settings, errors, tables and queries that the processes share."""
