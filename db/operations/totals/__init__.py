"""Count ended work and received objects since the installation, for counters that survive restarts."""
