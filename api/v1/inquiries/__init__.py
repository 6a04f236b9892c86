"""Questions and choices between diagnoses about a study, and the predictions that a choice receives."""
