"""What a run is on disk, and how its processes communicate through its folder."""
