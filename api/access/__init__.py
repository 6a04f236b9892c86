"""Authenticate requests and authorize reads."""
