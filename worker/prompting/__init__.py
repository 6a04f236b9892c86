"""Make the prompts, with versioned wording, and split the answers."""
