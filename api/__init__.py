"""The read API and the radiologist's page. Reads; never changes a study."""
