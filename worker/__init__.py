"""From a queued job to a stored preliminary report."""
