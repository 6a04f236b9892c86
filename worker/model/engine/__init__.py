"""Generate text with continuous batching: requests, KV cache, decode steps."""
