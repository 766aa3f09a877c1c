"""Everything about Ray Train: launching a run's workers, failures, elasticity, the network."""
