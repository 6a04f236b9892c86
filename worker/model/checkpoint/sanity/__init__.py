"""Check that a checkpoint is what it claims to be: its publication, weights, tokenizer and language."""
