"""Install, start and operate the processes."""
