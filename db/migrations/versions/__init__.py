"""Hold the migrations, one file each, in order."""
