"""Search similar earlier cases and detect out-of-distribution images; faiss and numpy."""
