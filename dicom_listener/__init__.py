"""From the modality to the queue: receive, spool, index, settle, dispatch."""
