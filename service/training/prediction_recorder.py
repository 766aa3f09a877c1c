"""Records what a network predicts in an evaluation, image by image, over all workers."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.batches import Batch
from service.distillation.logits import are_valid
from service.run.predictions import INVALID, TIED, Predictions
from service.training.distributed import World, gather_from_all


class _Rows(NamedTuple):
    """What is kept of a batch, on the device; see ``Predictions``."""

    labels: Tensor
    predicted: Tensor
    confidences: Tensor
    in_top5: Tensor
    losses: Tensor


class PredictionRecorder:
    """Collects this worker's predictions of one evaluation."""

    def __init__(self) -> None:
        self._samples: list[NDArray[np.int64]] = []
        self._rows: list[_Rows] = []

    def add(self, batch: Batch, logits: Tensor, in_top5: Tensor, losses: Tensor) -> None:
        """Record a batch; nothing is read from the device.

        ``logits``: [B, K]. ``in_top5``, ``losses``: of each image, [B].
        """
        largest, predicted = logits.max(dim=1)
        is_tied = (logits == largest[:, None]).sum(dim=1) > 1
        is_valid = are_valid(logits)
        predicted = predicted.masked_fill(is_tied, TIED).masked_fill(~is_valid, INVALID)
        confidences = logits.softmax(dim=1).amax(dim=1).masked_fill(~is_valid, 0.0)
        labels = batch.labels.to(logits.device, non_blocking=True)
        self._samples.append(batch.indices)
        self._rows.append(_Rows(labels, predicted, confidences, in_top5, losses))

    def gathered(self, world: World, timeout_s: float) -> Predictions:
        """The predictions of all workers, in the order of the samples; every rank must call it."""
        parts = gather_from_all(self._own(), world, timeout_s)
        joined = Predictions._make(map(np.concatenate, zip(*parts, strict=True)))
        return joined.chosen(np.argsort(joined.samples, kind="stable"))

    def _own(self) -> Predictions:
        if not self._rows:
            # A worker without images.
            return Predictions._make(np.empty(0, kind) for kind in _KINDS)
        columns = (torch.cat(column).cpu().numpy() for column in zip(*self._rows, strict=True))
        arrays = (np.concatenate(self._samples), *columns)
        return Predictions._make(a.astype(kind) for a, kind in zip(arrays, _KINDS, strict=True))


_KINDS = (np.int64, np.int32, np.int32, np.float32, np.bool_, np.float32)
