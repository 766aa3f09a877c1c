"""Runs many jobs as trials of Ray Tune, for sweeps and for other callers."""
