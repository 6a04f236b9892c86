"""Train the demo checkpoint."""
