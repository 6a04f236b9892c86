"""From the modality to the queue: receives, keeps, indexes and dispatches studies."""
