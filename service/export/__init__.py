"""Exports a trained network to a file that other programs run, checked on real images."""
