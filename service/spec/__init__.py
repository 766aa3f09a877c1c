"""What a run is: the job spec, its sections and rules. Imports neither torch nor ray."""

from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.loading import load_spec, parse_spec

__all__ = ["BadInputError", "JobSpec", "Problem", "load_spec", "parse_spec"]
