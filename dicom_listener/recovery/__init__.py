"""Find what the database lacks of the stored files: after a failover, or because it is another database."""
