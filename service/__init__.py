"""Knowledge distillation of image classifiers as a service on Ray, FFCV and MLflow."""
