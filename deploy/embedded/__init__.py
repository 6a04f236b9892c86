"""Start the PostgreSQL and Redis servers that come with Prelim."""
