"""Select which images of a study the model sees."""
