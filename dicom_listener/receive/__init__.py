"""Serve associations: from the TCP connection to the response of each DIMSE request."""
