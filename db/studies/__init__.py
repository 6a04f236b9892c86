"""Move a study through its states, from its first instance to its last revision."""
