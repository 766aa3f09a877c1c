"""torchdistill's own distillation job, installed from PyPI for the benchmark alone."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from pipelines import NUM_THREADS, SIZE
from torchvision import datasets, models, transforms

from service.spec.fields import IMAGENET_MEAN, IMAGENET_STD
from service.training.distributed import keep_freed_memory, use_default_allocation

REQUIREMENT = "torchdistill==1.1.5"


def install(folder: Path) -> str:
    """Make it importable; returns why that is not possible, or nothing."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
    done = subprocess.run([*command, REQUIREMENT], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"{REQUIREMENT} cannot be installed: {done.stderr.strip().splitlines()[-1:]}"
    sys.path.append(str(folder))
    try:
        import torchdistill.core.distillation  # noqa: F401
    except ImportError as error:
        return f"{REQUIREMENT} cannot be imported: {error}"
    return ""


class TorchdistillJob:
    """ResNet-34 -> ResNet-18 as its configuration for ImageNet has it, but for the batch size."""

    def __init__(self, photos: Path, batch_size: int, num_warmup_steps: int):
        from torchdistill.core.distillation import get_distillation_box

        crop = transforms.Compose(
            [
                transforms.RandomResizedCrop(SIZE),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )
        dataset = datasets.ImageFolder(str(photos), crop)
        self._batch_size, self._num_warmup_steps = batch_size, num_warmup_steps
        self._box = get_distillation_box(
            models.resnet34(),
            models.resnet18(),
            {"train": dataset},
            _configuration(batch_size),
            torch.device("cpu"),
            device_ids=None,
            distributed=False,
            lr_factor=1,
        )

    def __call__(self) -> float:
        """Images per second of an epoch, as its example script runs one."""
        use_default_allocation()
        torch.set_num_threads(NUM_THREADS)
        self._box.pre_epoch_process(epoch=0)
        num_steps = 0
        for step, (images, labels, more) in enumerate(self._box.train_data_loader):
            if step == self._num_warmup_steps:
                start_s = time.perf_counter()
            loss = self._box.forward_process(images, labels, more)
            self._box.post_forward_process(loss)
            # Its script logs the loss of every step.
            loss.item()
            num_steps = step + 1 - self._num_warmup_steps
        keep_freed_memory()
        return num_steps * self._batch_size / (time.perf_counter() - start_s)


def _configuration(batch_size: int) -> dict[str, Any]:
    """configs/official/ilsvrc2012/yoshitomo-matsubara/rrpr2020/kd-resnet18_from_resnet34.yaml."""
    outputs = {"input": [], "output": []}
    network = {"forward_proc": "forward_batch_only", "forward_hook": outputs}
    loss = {
        "student_module_path": ".",
        "student_module_io": "output",
        "teacher_module_path": ".",
        "teacher_module_io": "output",
        "temperature": 1.0,
        "alpha": 0.5,
        "reduction": "batchmean",
    }
    kd = {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}
    return {
        "num_epochs": 100,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": torch.utils.data.RandomSampler},
            "kwargs": {"batch_size": batch_size, "num_workers": NUM_THREADS, "drop_last": True},
        },
        "teacher": {**network, "requires_grad": False},
        "student": {**network, "requires_grad": True},
        "optimizer": {
            "key": "SGD",
            "kwargs": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0001},
        },
        "scheduler": {
            "key": "MultiStepLR",
            "kwargs": {"milestones": [30, 60, 90], "gamma": 0.1},
        },
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": kd}}},
    }
