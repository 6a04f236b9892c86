"""Accept associations by pynetdicom: its server, negotiation and state machine, with reads that have limits."""
