"""Searches the settings of a job: the space, the search, its trials and its outcome."""
