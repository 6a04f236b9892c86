"""Serve the application over HTTP, within limits of connections and time."""
