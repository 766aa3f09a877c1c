"""The teacher's predictions for some of a run's images, within a limited time.

The images are those of the run: its first training crops, as its own loader cuts and augments them,
and center crops of what it evaluates, chosen at random.
"""

import itertools
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from data_pipeline.batches import Batch
from service.distillation.pixels import FrozenTeacher, PixelNormalizer
from service.distillation.task import autocast
from service.run.execution import Execution
from service.spec.data_sections import Normalization
from service.spec.job import JobSpec
from service.training.data import WorkerData
from service.training.distributed import World
from service.training.precisions import autocast_dtype

# Small, so that a large network on a CPU is stopped in time.
BATCH_SIZE = 16
NUM_VAL_IMAGES, NUM_KEPT_IMAGES, NUM_TRAIN_IMAGES = 10_000, 2_048, 4_096
VAL_LIMIT_S, RENORMALIZED_LIMIT_S, PAIRS_LIMIT_S, TRAIN_LIMIT_S = 35.0, 40.0, 15.0, 25.0


class LabeledLogits(NamedTuple):
    """``logits`` [N, K] in float64 and ``labels`` [N] of N images, on the CPU."""

    logits: Tensor
    labels: Tensor


class PairLogits(NamedTuple):
    """Logits [P, K] of two images each, ``blended`` evenly or ``cut`` in half and joined.

    ``labels`` [P, 2] are of both.
    """

    blended: Tensor
    cut: Tensor
    labels: Tensor


class Renormalized(NamedTuple):
    """Predictions for the same images with the teacher's own and with other normalizations.

    ``others``: logits [M, K] by the names of the normalizations.
    """

    own: LabeledLogits
    others: dict[str, Tensor]


class Sample(NamedTuple):
    """What the teacher predicts.

    ``train``: for training crops. ``evaluated``: for center crops. Of the first of the latter:
    ``renormalized``, with center crops of training images too if they have labels, and None if
    there is no other normalization; ``pairs``: for mixtures of every two.
    """

    train: LabeledLogits
    evaluated: LabeledLogits
    renormalized: Renormalized | None
    pairs: PairLogits


class TeacherSampler:
    """Runs a teacher over a run's images.

    Args:
        spec: of the run; nothing is read from its folder.
        teacher: uint8 pixels [B, H, W, 3] to logits [B, K].
        device: where the teacher is.
    """

    def __init__(self, spec: JobSpec, teacher: nn.Module, device: torch.device):
        self._spec, self._teacher, self._device = spec, teacher, device
        self._dtype = autocast_dtype(Execution.plain(spec).precision)

    def sample(self, normalizations: Mapping[str, Normalization]) -> Sample:
        """Predictions for some images; with each of the ``normalizations`` too.

        Raises:
            RunAbortedError: a dataset cannot be opened.
            UndecodableSampleError: more images do not decode than the spec allows.
        """
        num_cpus = len(os.sched_getaffinity(0))
        data = WorkerData(_in_small_batches(self._spec), World(0, 1, self._device, num_cpus), print)
        try:
            generator = np.random.default_rng(self._spec.seed)
            chosen = generator.permutation(data.num_val_images)[:NUM_VAL_IMAGES]
            kept: list[Batch] = []
            batches = _keeping_first(data.val_batches(chosen), kept)
            evaluated = self._predict(batches, NUM_VAL_IMAGES, VAL_LIMIT_S)
            centers = itertools.chain(kept, self._train_centers(data, kept, generator))
            renormalized = self._renormalized(centers, normalizations) if normalizations else None
            pairs = self._pairs(kept)
            train_batches = data.train_batches(epoch=0, start=0)
            train = self._predict(train_batches, NUM_TRAIN_IMAGES, TRAIN_LIMIT_S)
        finally:
            data.close()
        return Sample(train, evaluated, renormalized, pairs)

    def _predict(self, batches: Iterable[Batch], num_images: int, limit_s: float) -> LabeledLogits:
        """For up to ``num_images``, and for at least one batch.

        The time starts with the first batch, for which the augmentation may have to be compiled.
        """
        end_s, parts, count = math.inf, [], 0
        for batch in batches:
            end_s = min(end_s, time.monotonic() + limit_s)
            parts.append(LabeledLogits(self._logits(batch.images), batch.labels))
            count += len(batch.labels)
            if count >= num_images or time.monotonic() > end_s:
                break
        logits, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return LabeledLogits(logits, labels)

    def _train_centers(
        self, data: WorkerData, kept: Sequence[Batch], generator: np.random.Generator
    ) -> Iterator[Batch]:
        """Center crops of labeled training images, as many as the ``kept`` ones are too few."""
        num_missing = NUM_KEPT_IMAGES - sum(len(batch.labels) for batch in kept)
        if num_missing > 0 and not self._spec.dataset.unlabeled:
            chosen = generator.permutation(data.num_train_images)[:num_missing]
            yield from data.train_center_batches(chosen)

    def _renormalized(
        self, batches: Iterable[Batch], normalizations: Mapping[str, Normalization]
    ) -> Renormalized:
        """For as many images as there is time for."""
        teacher = self._teacher
        assert isinstance(teacher, FrozenTeacher), "only a single network is normalized anew"
        own, end_s = teacher.normalize, time.monotonic() + RENORMALIZED_LIMIT_S
        own_parts: list[LabeledLogits] = []
        parts: dict[str, list[Tensor]] = {name: [] for name in normalizations}
        for batch in batches:
            teacher.normalize = own
            own_parts.append(LabeledLogits(self._logits(batch.images), batch.labels))
            for name, normalization in normalizations.items():
                teacher.normalize = PixelNormalizer(normalization).to(self._device)
                parts[name].append(self._logits(batch.images))
            if time.monotonic() > end_s:
                break
        teacher.normalize = own
        logits, labels = (torch.cat(tensors) for tensors in zip(*own_parts, strict=True))
        others = {name: torch.cat(tensors) for name, tensors in parts.items()}
        return Renormalized(LabeledLogits(logits, labels), others)

    def _pairs(self, batches: Sequence[Batch]) -> PairLogits:
        """For mixtures of a batch's first image with its last, and so on to the middle."""
        end_s, parts = time.monotonic() + PAIRS_LIMIT_S, []
        for batch in batches:
            count = (len(batch.labels) + 1) // 2
            # The middle one of an odd number is mixed with itself, which is of one class.
            first, second = batch.images[:count], batch.images.flip(0)[:count]
            blended = ((first.float() + second.float()) / 2).round().to(torch.uint8)
            cut, middle = first.clone(), first.shape[2] // 2
            cut[:, :, middle:] = second[:, :, middle:]
            labels = torch.stack([batch.labels, batch.labels.flip(0)], dim=1)[:count]
            parts.append(PairLogits(self._logits(blended), self._logits(cut), labels))
            if time.monotonic() > end_s:
                break
        return PairLogits(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def _logits(self, images: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(self._device, self._dtype):
            return self._teacher(images.to(self._device)).double().cpu()


def _in_small_batches(spec: JobSpec) -> JobSpec:
    """The same images in the same order; only the sizes of batches differ."""
    size = min(BATCH_SIZE, spec.training.global_batch_size)
    sizes = {"global_batch_size": size, "micro_batch_size": size}
    return spec.model_copy(
        update={
            "training": spec.training.model_copy(update=sizes),
            "evaluation": spec.evaluation.model_copy(update={"batch_size": size}),
        }
    )


def _keeping_first(batches: Iterable[Batch], kept: list[Batch]) -> Iterator[Batch]:
    """The same batches; the first ones are added to ``kept``."""
    num_kept = 0
    for batch in batches:
        if num_kept < NUM_KEPT_IMAGES:
            kept.append(batch)
            num_kept += len(batch.labels)
        yield batch
