"""Runs many jobs as trials of Ray Tune; what they are for is decided by whoever provides them."""
