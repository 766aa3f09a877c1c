"""What one worker does: the loop, what it resumes from, and how it measures itself."""
