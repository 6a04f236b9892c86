"""Read findings from the sentences of a report."""
