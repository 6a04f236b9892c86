"""Traces of ended jobs, read from the database and sent to a collector by OTLP."""
