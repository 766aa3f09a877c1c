"""Searches the settings of a job: the space, the search, its trials, and what came out."""
