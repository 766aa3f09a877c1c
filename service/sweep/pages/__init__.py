"""Renders the HTML page of a sweep and its pictures."""
