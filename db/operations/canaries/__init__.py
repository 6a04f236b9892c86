"""Record the phantom studies that an installation sends to itself, and how they ended."""
