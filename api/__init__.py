"""The read API and the radiologist's page."""
