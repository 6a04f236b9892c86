"""Store the API keys."""
