"""Keep what the processes share: settings, errors, tables and the queries on them."""
