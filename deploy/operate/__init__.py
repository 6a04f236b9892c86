"""Carry out the operator's commands: status, audit, bundle, one study."""
