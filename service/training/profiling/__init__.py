"""Where the time of a training step goes: measured on the job as it is, and compared with limits."""
