"""What knows Ray: starting workers, their network, and the run's folder."""
