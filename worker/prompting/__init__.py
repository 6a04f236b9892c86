"""Word the prompts, in versions."""
