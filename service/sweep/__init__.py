"""Sweeps: searching the settings of a job by running many, cheaply."""
