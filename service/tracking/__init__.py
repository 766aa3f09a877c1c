"""What happened in a run: the journal beside it, MLflow, and what a person reads."""
