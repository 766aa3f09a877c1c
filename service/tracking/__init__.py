"""Everything about MLflow: a run's metrics and status, and the student as a model."""
