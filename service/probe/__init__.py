"""Whether a run's teacher is usable for it, and why not: ``jobs/distill.py SPEC --probe``."""
