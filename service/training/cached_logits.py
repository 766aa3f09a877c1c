"""The teacher's logits through the cache: read where they are stored, else computed and stored."""

import json
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from data_pipeline.batches import Batch
from data_pipeline.files import write_atomically
from service.distillation.pixels import PixelBatch
from service.distillation.task import DistillationTask
from service.run.execution import Execution
from service.run.state_files import read_if_usable
from service.spec.job import JobSpec
from service.spec.losses import TEMPERATURE_FIELDS, Losses
from service.spec.teacher_cache import CHECKSUM_BYTES
from service.teacher_cache.differences import miss_text
from service.teacher_cache.formats import format_of
from service.teacher_cache.key import Key, cache_key, execution_of, weights_digests
from service.teacher_cache.spot_checks import TOLERANCES, is_spot_check
from service.teacher_cache.store import LogitStore
from service.training.data import WorkerData
from service.training.distributed import World, gather_from_all
from service.training.teacher_logits import StepPlace, TeacherLogits, WrongLogitsError

DECISION_NAME = "teacher_cache.json"
"""In a run's folder: whether the run learns from the stored form of the logits."""


class CacheFillingError(RuntimeError):
    """Logits cannot be stored; the message says why."""


class CachedTeacherLogits(TeacherLogits):
    """One worker's teacher logits, all of them through their stored form.

    What is computed is rounded as it would be if it had been read, so that a run that fills the
    cache, one that reads it, and one whose disk is full learn from the same numbers. Only where the
    stored form is too inexact, measured on the run's first batch, are the logits used as they are;
    the run's folder keeps this decision. All ranks call ``of`` together.

    Args:
        spec: with a teacher.cache, and the classes of the teachers resolved.
        world: this worker.
        task: with the teacher.
        data: whose training images are seen.
        execution: how the networks are run; what it says about the teacher is part of the key.
        note: writes a line to the run's log.
    """

    def __init__(
        self,
        spec: JobSpec,
        world: World,
        task: DistillationTask,
        data: WorkerData,
        execution: Execution,
        note: Callable[[str], None],
    ):
        super().__init__(task)
        assert spec.teacher_cache is not None
        self._spec, self._world, self._note = spec, world, note
        self._num_steps, self._num_places = data.num_steps_per_epoch, data.num_train_images
        self._format = format_of(spec.teacher_cache, spec.dataset.num_classes)
        self._num_views = spec.num_teacher_views
        self._tolerance = TOLERANCES[execution.teacher_precision]
        self._is_used, key_of = self._start(data.train_fingerprint, execution)
        is_gpu = world.device.type == "cuda"
        self._store = LogitStore(spec, key_of, self._num_places, pin_memory=is_gpu, report=note)
        # What is compared is read on a thread: the step waits for no result.
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="teacher-cache-check")
        self._checks: deque[Future[float]] = deque()
        self._num_read = self._num_images = 0

    def _start(
        self, fingerprint: str, execution: Execution
    ) -> tuple[bool | None, Callable[[int], Key]]:
        """An earlier decision, and the key for images of a size in pixels, the same on all ranks.

        Rank 0 says why nothing is stored for it, if that may surprise.
        """
        spec = self._spec
        found: tuple[bool | None, dict[str, str]] = (None, {})
        key_of = partial(
            cache_key,
            spec,
            fingerprint=fingerprint,
            execution=execution_of(execution, self._world.device.type),
        )
        if self._world.rank == 0:
            decision = read_if_usable(self._decision_path, dict[str, bool]) or {}
            found = decision.get("is_used"), weights_digests(spec)
            # Before another rank creates the entry.
            key = key_of(spec.augmentation.size_at(0), digests=found[1])
            if found[0] is not False and (text := miss_text(spec.teacher_cache_path, key)):
                self._note(text)
        timeout_s = spec.resources.collective_timeout_s
        is_used, digests = gather_from_all(found, self._world, timeout_s)[0]
        return is_used, partial(key_of, digests=digests)

    @property
    def _decision_path(self) -> Path:
        return self._spec.run_path / DECISION_NAME

    def of(self, views: Sequence[PixelBatch], batch: Batch, place: StepPlace) -> list[Tensor]:
        """Logits [B, K], float32, of each view that the teacher sees."""
        if self._is_used is False:
            return super().of(views, batch, place)
        self._store.open_epoch(place.epoch)
        self._settle_finished()
        rows = self._stored_rows(place)
        logits: list[Tensor] = []
        if rows is None or self._is_used is None or self._is_spot_check(place):
            logits = super().of(views, batch, place)
        if self._is_used is None and not self._decide(logits):
            return logits
        if rows is None:
            rows = self._rows(logits)
            self._store_rows(rows, place)
        elif logits:
            self._compare(rows, logits)
        return [self._format.decode(stored) for stored in self._views(rows)]

    def are_stored(self, place: StepPlace) -> bool:
        """Whether the logits of a place can be read."""
        self._store.open_epoch(place.epoch)
        return self._store.read(place.first_place, place.num_local) is not None

    def fill(self, views: Sequence[PixelBatch], batch: Batch, place: StepPlace) -> None:
        """Compute the logits and store them.

        Raises:
            CacheFillingError: they cannot be stored, or no run would read them: on the first batch
                of a run, the stored form is less exact than max_error.
        """
        self._store.open_epoch(place.epoch)
        logits = super().of(views, batch, place)
        cache = self._spec.teacher_cache
        assert cache is not None
        if place.epoch == place.first_place == 0:
            error = self._error(logits)
            if not error <= cache.error_limit:
                raise CacheFillingError(
                    f"teacher.cache: error of the stored logits {self._with_unit(error)}, more "
                    f"than max_error = {cache.error_limit:g}: no run would read them; keep more "
                    "logits, or raise max_error"
                )
        self._store_rows(self._rows(logits), place)
        self._store.flush()
        if self._store.trouble is not None:
            raise CacheFillingError(self._store.trouble)

    def _stored_rows(self, place: StepPlace) -> Tensor | None:
        """This worker's rows, on the device; None if one of them is missing."""
        stored = self._store.read(place.first_place, place.num_local)
        next_place = place.first_place + self._spec.training.global_batch_size
        if place.step_in_epoch + 1 < self._num_steps:
            count = min(place.num_local, self._num_places - next_place)
            self._store.read_ahead(next_place, count)
        self._num_images += place.num_local
        if stored is None:
            return None
        self._num_read += place.num_local
        return stored.to(self._world.device, non_blocking=True)

    def _rows(self, logits: Sequence[Tensor]) -> Tensor:
        """Rows [B, row_bytes] of the views' logits, with empty checksums, on the device."""
        encoded = [self._format.encode(view) for view in logits]
        return torch.cat([encoded[0].new_zeros(len(encoded[0]), CHECKSUM_BYTES), *encoded], dim=1)

    def _views(self, rows: Tensor) -> Sequence[Tensor]:
        """The stored logits of each view."""
        return rows[:, CHECKSUM_BYTES:].chunk(self._num_views, dim=1)

    def _store_rows(self, rows: Tensor, place: StepPlace) -> None:
        if place.num_local == 0:
            return
        # The checksums are filled in on a thread, while the step reads the rows.
        self._store.write(place.first_place, *_on_host(rows))

    def _decide(self, logits: Sequence[Tensor]) -> bool:
        """Whether the run learns from the stored form, from its error on this batch."""
        cache = self._spec.teacher_cache
        assert cache is not None
        timeout_s = self._spec.resources.collective_timeout_s
        error = max(gather_from_all(self._error(logits), self._world, timeout_s))
        self._is_used = error <= cache.error_limit
        if self._world.rank == 0:
            write_atomically(self._decision_path, json.dumps({"is_used": self._is_used}) + "\n")
            text = f"teacher.cache: error of the stored logits {self._with_unit(error)}"
            if not self._is_used:
                text = (
                    f"warning: {text}, more than max_error = {cache.error_limit:g}; the teacher "
                    "is run instead"
                )
            self._note(text)
        return self._is_used

    def _error(self, logits: Sequence[Tensor]) -> float:
        """Of the stored form of this worker's logits; the largest over the views."""
        temperatures = _temperatures(self._spec.effective_losses())
        return max(float(self._format.error(view, temperatures)) for view in logits)

    def _with_unit(self, error: float) -> str:
        assert self._spec.teacher_cache is not None
        is_share = self._spec.teacher_cache.keep == "float16"
        return f"{error:.3g} {'of the largest logit' if is_share else 'nats'}"

    def _is_spot_check(self, place: StepPlace) -> bool:
        epoch, step = self._spec.draw_epoch(place.epoch), place.step_in_epoch
        return is_spot_check(self._spec.seed, epoch, step, self._num_steps)

    def _compare(self, rows: Tensor, logits: Sequence[Tensor]) -> None:
        """Compare what was read with logits that were computed; the run goes on with the former."""
        pairs = zip(self._views(rows), logits, strict=True)
        found = torch.stack([self._format.mismatch(*pair).amax() for pair in pairs]).amax()
        host, arrival = _on_host(found)
        self._checks.append(self._checker.submit(_arrived, host, arrival))

    def settle(self) -> None:
        """Wait for the comparisons, and see what they have found.

        Raises:
            WrongLogitsError: on one rank; what is stored is removed.
        """
        while self._checks:
            self._settle(self._checks.popleft().result())

    def _settle_finished(self) -> None:
        while self._checks and self._checks[0].done():
            self._settle(self._checks.popleft().result())

    def _settle(self, difference: float) -> None:
        if difference <= self._tolerance:
            return
        self._store.discard()
        raise WrongLogitsError(
            f"teacher.cache: stored logits differ by {difference:.3g} of the largest one from "
            "those that the teacher computes; the run has learned from them. They are removed: "
            "submit the same spec to go on from the last checkpoint, whose epochs passed their "
            "checks, or give the run another name"
        )

    def close(self) -> None:
        """Write everything, and say how much was read."""
        self._checker.shutdown(wait=True)
        self._store.close()
        if self._world.rank == 0 and self._num_images and self._is_used is not False:
            share = self._num_read / self._num_images
            self._note(f"teacher.cache: {share:.1%} of the logits were read, the rest computed")


def build_teacher_logits(
    spec: JobSpec,
    world: World,
    task: DistillationTask,
    data: WorkerData,
    execution: Execution,
    note: Callable[[str], None],
) -> TeacherLogits:
    """The teacher's logits as a spec asks for them; see ``CachedTeacherLogits`` for the rest."""
    if spec.teacher_cache is None:
        return TeacherLogits(task)
    return CachedTeacherLogits(spec, world, task, data, execution, note)


def _on_host(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A copy in the host's memory, and when it has arrived there; None where it is at once."""
    if not values.is_cuda:
        return values.clone(), None
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    return host, torch.cuda.current_stream(values.device).record_event()


def _arrived(value: Tensor, arrival: torch.cuda.Event | None) -> float:
    if arrival is not None:
        arrival.synchronize()
    return float(value)


def _temperatures(losses: Losses) -> list[float]:
    """The softmax temperatures that the losses have as numbers, and 1."""
    sections = losses.active.values()
    values = (getattr(section, name, None) for section in sections for name in TEMPERATURE_FIELDS)
    return sorted({1.0, *(value for value in values if isinstance(value, float))})
