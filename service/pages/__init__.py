"""Renders results as self-contained HTML pages."""
