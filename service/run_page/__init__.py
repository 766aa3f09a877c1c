"""Shows one run as a page: what the method did, and how well the student learned."""
