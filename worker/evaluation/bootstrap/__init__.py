"""Write pairs of images and reports for fine-tuning, from studies of which people confirmed the findings."""
