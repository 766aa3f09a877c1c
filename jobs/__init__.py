"""Entry points; each is run as a script."""
