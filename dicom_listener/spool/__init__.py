"""Write received objects to disk, durably."""
