"""What the processes share: settings, tables, the life of a study, the job protocol."""
