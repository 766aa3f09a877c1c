"""What the specs of many jobs have in common: a base, and one folder for all of them."""

from typing import Literal, Self

from pydantic import PrivateAttr

from service.spec.fields import Name, Section
from service.spec.job import JobSpec


class ManyJobs(Section):
    """Jobs that differ from a base; they live in storage_path/name of the base."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    name: Name
    """Name of all of them, and of their folder in the base's storage path."""
    base: JobSpec
    """The job that the others differ from."""

    _job: JobSpec | None = PrivateAttr(default=None)

    def as_job(self) -> JobSpec:
        """The job spec that represents all of them: the base under their common name."""
        return self._job or self.base.model_copy(update={"name": self.name})

    def moved_to(self, job: JobSpec) -> Self:
        """The same jobs in the folder of ``job``, which is ``as_job`` in another place."""
        base = self.base.model_copy(update={"checkpoints": job.checkpoints})
        moved = self.model_copy(update={"base": base})
        moved._job = job
        return moved
