"""Where the time of a training step goes, in the job as it is, and what limits it."""
