"""Examine the objects in the object storage, and bring those back that no row has."""
