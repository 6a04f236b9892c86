"""Store who may use the API: keys, sessions of the page, answers to repeated requests."""
