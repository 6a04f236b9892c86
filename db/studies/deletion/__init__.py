"""Delete studies that ended long ago, and the files of deleted rows."""
