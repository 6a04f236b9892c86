"""Draw the images of synthetic cases."""
