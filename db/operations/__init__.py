"""Answer what operations ask: heartbeats, alarms, invariants, overview."""
