"""Limit what is received while disk or backlog are near their limits, and what one AE title sends in a minute."""
