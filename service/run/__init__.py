"""What a run is on disk, and how its processes communicate through its folder.

What defines a run is its spec: service/spec/job.py. A job (service/job.py) is one submission of a
run, which resumes what earlier jobs of it have done.
"""
