"""Convert, inspect, verify and write checkpoint directories."""
