"""Answer the JSON routes under /v1, health checks and metrics."""
