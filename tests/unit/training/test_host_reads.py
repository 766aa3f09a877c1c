"""No step reads a tensor on the host: on a GPU, each read would wait for all that was launched.

Here the device is the CPU; what is watched are the operations that read, whatever the device.
"""

import contextlib

import pytest
import torch
from support.training_runs import CPU
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from service.spec.loading import parse_spec
from service.training.distributed import World
from service.training.trainer import Trainer

READING_OPERATIONS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal"}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_"}
READING_METHODS = {
    getattr(torch.Tensor, name) for name in ("cpu", "tolist", "numpy", "item", "__bool__")
}


class HostReadError(AssertionError):
    """A tensor was read."""


class NoReadingOperations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        # How many elements a mask selects is only known after it was read.
        is_masked = name in INDEXING and any(
            one is not None and one.dtype == torch.bool for one in args[1]
        )
        if is_masked or name in READING_OPERATIONS:
            raise HostReadError(name)
        return func(*args, **(kwargs or {}))


class NoReadingMethods(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        # A device that is passed on is that of another tensor, which is a GPU elsewhere.
        values = (*args[1:], *(kwargs or {}).values())
        is_to_cpu = func is torch.Tensor.to and any(
            isinstance(one, str) and one == "cpu" for one in values
        )
        if func in READING_METHODS or is_to_cpu:
            raise HostReadError(getattr(func, "__name__", "to"))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_host_reads():
    with NoReadingMethods(), NoReadingOperations():
        yield


@pytest.mark.parametrize(
    "read",
    [
        lambda tensor: tensor.item(),
        lambda tensor: float(tensor),
        lambda tensor: bool(tensor > 0),
        lambda tensor: tensor.cpu(),
        lambda tensor: tensor.to("cpu"),
        lambda tensor: tensor.tolist(),
        lambda tensor: tensor.numpy(),
        lambda tensor: torch.arange(3)[tensor > torch.zeros(3)],
        lambda tensor: torch.nn.functional.one_hot(tensor.long()),
    ],
)
def test_reads_are_noticed(read):
    tensor = torch.ones(())
    with pytest.raises(HostReadError), no_host_reads():
        read(tensor)


def make_steps(spec, num_steps=3):
    """Some steps, each but the first of which settles the one before it."""
    spec.run_path.mkdir(parents=True)
    with Trainer(spec, World(0, 1, CPU, 1), lambda: None) as trainer:
        for _, batch in zip(range(num_steps), trainer.remaining_batches(), strict=False):
            with no_host_reads():
                trainer.step(batch)
        assert trainer.progress.step == num_steps


SECTIONS = {
    "plain": {},
    "clipped, averaged, with AdamW": {
        "training": {"max_grad_norm": 1.0, "ema_decay": 0.9, "on_nonfinite": "skip"},
        "optimizer": {"kind": "adamw", "learning_rate": 0.01},
    },
    "mixed, in passes of several micro-batches": {
        "augmentation": {"mixing": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}},
        "training": {"micro_batch_size": 16, "label_smoothing": 0.1},
    },
    "in bfloat16": {"training": {"precision": "bfloat16"}},
}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_step_reads_nothing(make_content, teacher, name):
    resources = {"num_workers": 1}
    spec = parse_spec(make_content(teacher=teacher, resources=resources, **SECTIONS[name]))
    make_steps(spec)
