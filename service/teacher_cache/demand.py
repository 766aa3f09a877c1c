"""Which logits runs read, each set of them once, and how much of them is stored.

For plans, and for what fills the cache beforehand: nothing is written here, and no network is run.
"""

from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.order import num_steps_per_epoch
from service.spec.job import JobSpec
from service.spec.loading import LoadedJob
from service.spec.networks import changed_networks, teacher_networks
from service.spec.sections import Weights, is_file_source
from service.spec.teacher_cache_rules import num_trained_images
from service.teacher_cache.entry import epoch_path, stored_keys
from service.teacher_cache.epoch_file import EpochFile
from service.teacher_cache.key import Key, cache_key, weights_digests

NUM_SAMPLED = 2000
"""Rows whose checksums are compared to see how much is stored, of all epochs of a key: reading all
of them could take as long as the teacher.
"""


class Runs(NamedTuple):
    """Runs that are alike: what one of them does, and how many there are, or are expected."""

    job: LoadedJob
    num_runs: float = 1


class FirstEpoch(NamedTuple):
    """A job, and its first epoch that has certain images, counted from 0."""

    job: LoadedJob
    epoch: int


@dataclass
class SharedLogits:
    """The logits that have one key but for how the teacher is run, which the first run decides.

    ``path``: of the cache. ``key``: with what is known of how it is run. ``settings``: fields that
    this depends on beside the key, by name. ``num_places``: images of an epoch, of which runs see
    ``num_seen``. ``epochs``: by the epoch whose images they have.
    """

    path: Path
    key: Key
    settings: dict[str, object]
    row_bytes: int
    num_places: int
    has_digests: bool
    num_seen: int = 0
    epochs: dict[int, FirstEpoch] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Of all epochs."""
        return len(self.epochs) * self.num_places * self.row_bytes

    def num_stored_epochs(self) -> float:
        """How much of the epochs is stored, from a sample of the rows; of 1 epoch, the share.

        Where the logits of several forms of the teacher are there, those with the most count.
        """
        found = [
            sum(self._stored_share(epoch_path(folder, epoch)) for epoch in self.epochs)
            for folder, key in stored_keys(self.path).items()
            if self._may_be(key)
        ]
        return max(found, default=0.0)

    def _may_be(self, stored: Key) -> bool:
        """Whether a stored key is that of these logits, as far as it is known."""
        unknown = {"execution"} if self.has_digests else {"execution", "weights"}
        known = self.key.keys() - unknown
        execution = stored.get("execution")
        return (
            isinstance(execution, dict)
            and stored.keys() == self.key.keys()
            and all(stored[name] == self.key[name] for name in known)
            and self.key["execution"].items() <= execution.items()
        )

    def _stored_share(self, path: Path) -> float:
        num_sampled = min(self.num_seen, max(1, NUM_SAMPLED // len(self.epochs)))
        places = np.linspace(0, self.num_seen - 1, num_sampled).astype(np.int64)
        row = np.empty((1, self.row_bytes), np.uint8)
        # What cannot be read counts as absent, as it does for runs.
        with suppress(OSError):
            if path.is_file():
                with closing(EpochFile(path, self.row_bytes)) as file:
                    return sum(file.read(place, row) for place in places.tolist()) / num_sampled
        return 0.0


def shared_logits(jobs: Iterable[LoadedJob]) -> list[SharedLogits]:
    """What the jobs with a teacher.cache read, in the order in which it is first needed.

    Raises:
        OSError: a file of weights cannot be read.
    """
    found: dict[str, SharedLogits] = {}
    digests: dict[str, dict[str, str]] = {}
    for job in jobs:
        spec = job.spec
        if spec.teacher_cache is None:
            continue
        sources = repr([network.weights for network in teacher_networks(spec.teacher).values()])
        if sources not in digests:
            digests[sources] = weights_digests(spec)
        of_sizes: dict[int, SharedLogits] = {}
        for epoch in range(spec.schedule.num_epochs):
            draw = spec.draw(epoch)
            if draw.size not in of_sizes:
                shared = _nothing_yet(job, _key(job, draw.size, digests[sources]))
                identity = repr((shared.settings, shared.key))
                of_sizes[draw.size] = found.setdefault(identity, shared)
            of_sizes[draw.size].epochs.setdefault(draw.epoch, FirstEpoch(job, epoch))
        for shared in of_sizes.values():
            shared.num_seen = max(shared.num_seen, _num_seen(job))
    return list(found.values())


def _nothing_yet(job: LoadedJob, key: Key) -> SharedLogits:
    spec = job.spec
    assert spec.teacher_cache is not None
    sources = [network.weights.source for network in teacher_networks(spec.teacher).values()]
    return SharedLogits(
        spec.teacher_cache_path,
        key,
        {
            "teacher.cache.path": str(spec.teacher_cache_path),
            "training.compile": spec.training.compile,
            "training.deterministic": spec.training.deterministic,
        },
        spec.teacher_cache.row_bytes(spec.dataset.num_classes, spec.num_teacher_views),
        num_trained_images(job.train, spec.dataset),
        all(digest not in sources for digest in key["weights"].values()),
    )


def _key(job: LoadedJob, size: int, digests: dict[str, str]) -> Key:
    """The key of a job's logits, with as much about how its teacher is run as its spec says."""
    spec = job.spec
    execution = {
        "matmul_precision": spec.training.matmul_precision,
        "device": "cuda" if spec.resources.gpu else "cpu",
    }
    if spec.training.precision != "auto":
        execution["precision"] = spec.training.precision
    return cache_key(
        _with_fetched_weights(spec),
        size,
        fingerprint=job.train.fingerprint,
        digests=digests,
        execution=execution,
    )


def _with_fetched_weights(spec: JobSpec) -> JobSpec:
    """The spec as it is when weights that come over the network have been stored in a file."""
    fetched = {
        path: {"weights": Weights(source=network.weights.source)}
        for path, network in teacher_networks(spec.teacher).items()
        if not is_file_source(network.weights.source)
    }
    return spec.model_copy(update=changed_networks(spec.student, spec.teacher, fetched))


def _num_seen(job: LoadedJob) -> int:
    """Images of an epoch that are trained on: without those of a last batch that is dropped."""
    training, num_images = job.spec.training, num_trained_images(job.train, job.spec.dataset)
    size = training.global_batch_size
    num_steps = num_steps_per_epoch(num_images, size, drop_last=training.drop_last)
    return min(num_images, num_steps * size)
