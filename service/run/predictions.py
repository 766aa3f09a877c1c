"""What a network predicted for each image of an evaluation, as a file of a run's folder.

From it, whoever reads the run computes what the run itself does not log: calibration, accuracy by
class, agreement with another network.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from data_pipeline.files import retry_io, write_atomically
from data_pipeline.json_files import UnusableFileError, read_bounded
from service.run.state_files import damaged
from service.spec.errors import BadInputError

logger = logging.getLogger(__name__)

STUDENT_PREDICTIONS_NAME = "student_predictions.safetensors"
TEACHER_PREDICTIONS_NAME = "teacher_predictions.safetensors"
LIMIT_BYTES = 2_000_000_000
NUM_BINS = 15

TIED, INVALID = -1, -2
"""In place of a predicted class: several have the largest logit; the logits are not finite."""


class Predictions(NamedTuple):
    """An evaluation, image by image, in the order of the images' places in the file.

    ``samples``: places [N] in the file, int64. ``labels``, ``predicted``: classes [N], int32; see
    TIED and INVALID. ``confidences``: largest softmax probability [N], float32. ``in_top5``:
    whether the label is among the five best classes [N], bool. ``losses``: cross-entropy [N] in
    nats, float32.
    """

    samples: NDArray[np.int64]
    labels: NDArray[np.int32]
    predicted: NDArray[np.int32]
    confidences: NDArray[np.float32]
    in_top5: NDArray[np.bool_]
    losses: NDArray[np.float32]

    @property
    def are_right(self) -> NDArray[np.bool_]:
        """Whether each image's label is predicted, [N]."""
        return self.predicted == self.labels

    def spaced(self, num_images: int) -> "Predictions":
        """This many of the images, evenly spaced; all of them if there are no more."""
        num_all = len(self.labels)
        return self.chosen(np.linspace(0, num_all - 1, min(num_images, num_all)).astype(np.int64))

    def chosen(self, places: NDArray[np.int64]) -> "Predictions":
        """Those at these places."""
        return Predictions._make(array[places] for array in self)

    def write(self, path: Path) -> None:
        """Write the file atomically.

        Raises:
            OSError: the storage fails.
        """
        arrays = {name: np.ascontiguousarray(array) for name, array in self._asdict().items()}
        content = save(arrays)
        retry_io(lambda: write_atomically(path, content))


def read_predictions(path: Path) -> Predictions | None:
    """The predictions in a file; None if there is none.

    Raises:
        BadInputError: it is damaged.
        OSError: the storage fails.
    """
    remedy = "remove the file; without it, calibration and agreement are not reported"
    try:
        arrays = load(read_bounded(path, LIMIT_BYTES))
        found = Predictions(**arrays)
    except FileNotFoundError:
        return None
    except (UnusableFileError, SafetensorError, TypeError, ValueError) as error:
        fault = f"it has no predictions of this version ({type(error).__name__})"
        raise damaged(path, fault, remedy) from error
    if len({array.shape for array in found}) != 1 or found.labels.ndim != 1:
        raise damaged(path, "its arrays have different lengths", remedy)
    return found


def predictions_if_usable(path: Path) -> Predictions | None:
    """The predictions in a file; a warning and None where they cannot be used."""
    try:
        return read_predictions(path)
    except (BadInputError, OSError) as error:
        logger.warning("%s", error)
        return None


class Reliability(NamedTuple):
    """Images in bins of equal width by their confidence, from 0 to 1.

    ``counts`` [B]; ``accuracies`` and ``confidences`` [B]: means of a bin, NaN where it is empty.
    """

    counts: NDArray[np.int64]
    accuracies: NDArray[np.float64]
    confidences: NDArray[np.float64]

    @property
    def calibration_error(self) -> float:
        """Expected calibration error (ECE), 0 to 1; NaN without images.

        Source: Guo et al., arXiv 1706.04599, equation 3.
        """
        total = self.counts.sum()
        gaps = np.abs(self.accuracies - self.confidences)
        return float(np.nansum(self.counts * gaps) / total) if total else float("nan")


def reliability(predictions: Predictions, num_bins: int = NUM_BINS) -> Reliability:
    """The reliability diagram; a bin has the confidences above its lower and up to its upper end.

    Images whose logits are not finite have no confidence and are left out.
    """
    is_valid = predictions.predicted != INVALID
    confidences = predictions.confidences[is_valid].astype(np.float64)
    are_right = predictions.are_right[is_valid]
    bins = np.clip(np.ceil(confidences * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        accuracies = np.bincount(bins, are_right, num_bins) / counts
        means = np.bincount(bins, confidences, num_bins) / counts
    return Reliability(counts, accuracies, means)


def class_accuracies(predictions: Predictions, num_classes: int) -> NDArray[np.float64]:
    """Accuracy on the images of each class, [K]; NaN for a class without images."""
    counts = np.bincount(predictions.labels, minlength=num_classes)
    num_right = np.bincount(predictions.labels, predictions.are_right, num_classes)
    with np.errstate(invalid="ignore"):
        return num_right / counts


def agreement(first: Predictions, second: Predictions) -> float:
    """Share of the images, 0 to 1, for which two networks predict the same class.

    Only images that both were evaluated on count; NaN if there are none.
    """
    _, of_first, of_second = np.intersect1d(
        first.samples, second.samples, assume_unique=True, return_indices=True
    )
    if not len(of_first):
        return float("nan")
    predicted = first.predicted[of_first]
    are_same = (predicted == second.predicted[of_second]) & (predicted >= 0)
    return float(are_same.mean())
