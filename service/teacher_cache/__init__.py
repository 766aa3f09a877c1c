"""The teacher's logits on disk: computed once for all runs with the same teacher and images."""
