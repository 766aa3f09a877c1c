"""Builds models by name and loads weights safely."""
