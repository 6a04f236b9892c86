"""Read the headers of received files into rows."""
