"""Similar earlier cases: the reference index and its search. The only room with faiss in it."""
