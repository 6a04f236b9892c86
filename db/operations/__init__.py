"""Query the state of the system for operators: heartbeats, alarms, invariants, overview."""
