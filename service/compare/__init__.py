"""Compares variants of a job over several seeds."""
