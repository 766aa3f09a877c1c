"""Runs a model over all images of a file, each once, as a run evaluates its student."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from data_pipeline.batches import Batch, UndecodableSampleError, center_crop
from data_pipeline.loader import ImageLoader
from data_pipeline.order import evaluation_batches
from service.distillation.pixels import FrozenTeacher
from service.distillation.task import autocast
from service.evaluate.dataset import ARGUMENT, EvaluatedData
from service.evaluate.locate import refuse
from service.evaluate.preprocessing import Preprocessing
from service.evaluate.source import FoundModel
from service.models.last_layer import keep_last_layer_in_float32
from service.run.predictions import Predictions
from service.training.distributed import World
from service.training.evaluation import Classifier, evaluate
from service.training.memory import DeviceMemoryError, with_memory_field
from service.training.prediction_recorder import PredictionRecorder

Precision = Literal["float32", "bfloat16"]
PROGRESS_INTERVAL_S = 30.0


class Execution(NamedTuple):
    """How networks are run. ``num_threads``: that decode images."""

    device: torch.device
    precision: Precision
    batch_size: int
    num_threads: int


def classifier(
    model: FoundModel, indices: Sequence[int] | None, execution: Execution
) -> Classifier:
    """The model on the device: uint8 pixels [B, S, S, 3] to logits [B, K] in float32.

    ``indices``: of the classes that are used, in this order; None for all. The model's network is
    moved to the device, and in bfloat16 its last layer is kept in float32.
    """
    device, dtype = execution.device, None
    if execution.precision == "bfloat16":
        dtype = torch.bfloat16
        keep_last_layer_in_float32(model.network, model.preprocessing.crop_size)
    network = model.network.to(device).to(memory_format=torch.channels_last)
    frozen = FrozenTeacher(network, model.preprocessing.normalization, indices).to(device)

    def classify(pixels: Tensor) -> Tensor:
        with autocast(device, dtype):
            return frozen(pixels.to(device, non_blocking=True)).float()

    return classify


@contextlib.contextmanager
def center_crops(
    data: EvaluatedData, preprocessing: Preprocessing, execution: Execution
) -> Iterator[Callable[[], Iterator[Batch]]]:
    """Within the context, a function that reads every image once, in the file's order.

    Raises:
        BadInputError: an image does not decode, or a batch does not fit into the GPU's memory.
        OSError: the storage fails.
    """
    crop = center_crop(preprocessing.resize_size, preprocessing.crop_size)
    world = _world(execution)
    shares = evaluation_batches(data.file.num_samples, execution.batch_size, rank=0, world_size=1)
    loader = ImageLoader(
        data.file,
        seed=0,
        num_threads=execution.num_threads,
        pin_memory=execution.device.type == "cuda",
    )
    try:
        with loader, with_memory_field(world, "--batch-size: images do not fit"):
            yield lambda: _with_progress(loader.batches(shares, crop), data.file.num_samples)
    except UndecodableSampleError as error:
        wrong = str(error).partition("; ")[0]
        refuse(ARGUMENT, wrong, "convert it again")
    except DeviceMemoryError as error:
        refuse("--batch-size", str(error).partition(": ")[2], "set a smaller number")


def predict(classify: Classifier, batches: Iterator[Batch], execution: Execution) -> Predictions:
    """What is predicted for each image, in the order of the file."""
    recorder, world = PredictionRecorder(), _world(execution)
    evaluate(classify, batches, world, recorder)
    return recorder.gathered(world, timeout_s=0)


def _world(execution: Execution) -> World:
    return World(0, 1, execution.device, execution.num_threads)


def _with_progress(batches: Iterator[Batch], num_images: int) -> Iterator[Batch]:
    """The same batches; a line every half a minute says how far they are."""
    num_done, start_s = 0, time.monotonic()
    due_s = start_s + PROGRESS_INTERVAL_S
    for batch in batches:
        yield batch
        num_done += len(batch.labels)
        now_s = time.monotonic()
        if now_s > due_s and num_done < num_images:
            speed = num_done / (now_s - start_s)
            print(f"{num_done:,} of {num_images:,} images, {speed:,.0f} img/s", flush=True)
            due_s = now_s + PROGRESS_INTERVAL_S
