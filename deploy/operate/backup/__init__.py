"""Back up database and files, encrypted, and restore them."""
