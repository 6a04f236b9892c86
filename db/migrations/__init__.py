"""Migrate the schema with Alembic."""
