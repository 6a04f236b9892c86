"""From a job to a report."""
