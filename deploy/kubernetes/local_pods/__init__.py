"""The pods of an overlay under podman: one machine stands in for a cluster."""
