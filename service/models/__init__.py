"""Building models by name and loading weights safely."""
