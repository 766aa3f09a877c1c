"""Measures a model on a dataset: accuracy, calibration, errors by class, agreement, speed."""
