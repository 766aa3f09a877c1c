"""What each loss costs, compared with KD: in a whole training step, and by itself.

    python tests/benchmarks/losses.py [--device cuda] [--rounds N] [--only NAME ...] [--json FILE]

A step is ResNet-34 -> ResNet-18 at 224 px with a loss at its default settings and cross-entropy: on
a CPU 8 images in float32, on a GPU 256 images in bfloat16. The loss by itself, with its
gradient, is that of 512 samples and 1,000 classes. Losses of two views see both.
"""

import argparse
import sys
import time
from collections.abc import Callable

import torch
from table import Comparison, add_json_option, compare, report
from torch import Tensor, nn

from service.distillation.losses import LOSSES
from service.distillation.losses.base import Context, LossInputs
from service.distillation.objective import Objective
from service.distillation.pixels import FrozenTeacher, PixelNormalizer
from service.distillation.task import DistillationTask, MicroBatch, Trainee
from service.models.build import build_model
from service.models.last_layer import classifier_weights
from service.spec.data_sections import Normalization
from service.spec.losses import Losses

NUM_CLASSES, NUM_EPOCHS, NUM_SAMPLES, SIZE = 1000, 100, 512, 224
STEP_GOAL = 0.9
MIN_DURATION_S = 1.0
NAMES = tuple(name for name in LOSSES if name not in ("ce", "kd"))


class Setting:
    """The networks and the data of a step on one kind of device."""

    def __init__(self, device: torch.device):
        is_gpu = device.type == "cuda"
        self.device, self.dtype = device, torch.bfloat16 if is_gpu else None
        self.num_images = 256 if is_gpu else 8
        torch.manual_seed(0)
        self.student = self.placed(build_model("resnet18", NUM_CLASSES)).train()
        teacher = self.placed(build_model("resnet34", NUM_CLASSES))
        self.classifier = classifier_weights(teacher, NUM_CLASSES, SIZE)
        self.teacher = FrozenTeacher(teacher, Normalization()).to(device)
        self.normalizer = PixelNormalizer(Normalization()).to(device)
        shape = (self.num_images, SIZE, SIZE, 3)
        self.views = [torch.randint(0, 256, shape, dtype=torch.uint8, device=device) for _ in "12"]
        self.labels = torch.randint(0, NUM_CLASSES, (self.num_images,), device=device)

    def placed(self, model: nn.Module) -> nn.Module:
        """The model on the device, with its convolutions in channels_last."""
        return model.to(self.device).to(memory_format=torch.channels_last)

    def losses(self, name: str) -> Losses:
        """A loss at its default settings, and cross-entropy."""
        return Losses.model_validate({"ce": {}, name: {}})

    def objective(self, losses: Losses) -> Objective:
        """The total of these losses."""
        context = Context(NUM_CLASSES, NUM_EPOCHS, classifier=self.classifier)
        return Objective(losses, context).to(self.device)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def rate(self, call: Callable[[], object], num_at_once: int) -> float:
        """Calls per second times ``num_at_once``, after one call that is not measured."""
        call()
        self.synchronize()
        start_s, num_calls = time.perf_counter(), 0
        while time.perf_counter() - start_s < MIN_DURATION_S:
            call()
            num_calls += 1
            if num_calls % 10 == 0:
                self.synchronize()
        self.synchronize()
        return num_calls * num_at_once / (time.perf_counter() - start_s)


def main(arguments: list[str]) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; medians are reported")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    setting = Setting(torch.device(options.device))
    steps = {name: step_of(setting, name) for name in ("kd", *options.only)}
    bare = {name: bare_loss(setting, name) for name in ("kd", *options.only)}
    comparisons = [
        Comparison(f"step with {name} / with kd", steps[name], steps["kd"], goal_of(setting, name))
        for name in options.only
    ]
    ratios = compare(comparisons, options.rounds, "img/s")
    alone = [
        Comparison(f"{name} alone / kd alone", bare[name], bare["kd"], None)
        for name in options.only
    ]
    report([*ratios, *compare(alone, options.rounds, "samples/s")], options.json)
    return 0


def goal_of(setting: Setting, name: str) -> float | None:
    """None for losses of two views, which need two forward passes."""
    return None if setting.losses(name).uses_strong_view else STEP_GOAL


def step_of(setting: Setting, name: str) -> Callable[[], float]:
    """Images per second of forward and backward passes and the update."""
    losses = setting.losses(name)
    trainee = Trainee(setting.student, setting.objective(losses), setting.dtype).train()
    task = DistillationTask(
        trainee, setting.normalizer, setting.teacher, autocast_dtype=setting.dtype
    )
    optimizer = torch.optim.SGD(trainee.parameters(), 1e-6, momentum=0.9, foreach=True)
    views = setting.views if losses.uses_strong_view else setting.views[:1]
    batch = MicroBatch(setting.labels, epoch=1)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        task(views, batch).loss.backward()
        optimizer.step()

    return lambda: setting.rate(step, setting.num_images)


def bare_loss(setting: Setting, name: str) -> Callable[[], float]:
    """Samples per second of a loss and its gradient, without networks."""
    generator = torch.Generator().manual_seed(1)

    def logits() -> Tensor:
        drawn = torch.randn(NUM_SAMPLES, NUM_CLASSES, generator=generator)
        return (3.0 * drawn).to(setting.device)

    student = [logits().requires_grad_() for _ in "12"]
    labels = torch.randint(0, NUM_CLASSES, (NUM_SAMPLES,), generator=generator)
    losses = Losses.model_validate({name: {}})
    objective = setting.objective(losses).train()
    inputs = LossInputs(
        student[0],
        labels.to(setting.device),
        epoch=1,
        teacher_logits=logits(),
        strong_student_logits=student[1],
        strong_teacher_logits=logits(),
    )

    def step() -> None:
        student[0].grad = student[1].grad = None
        objective(inputs).total.backward()

    return lambda: setting.rate(step, NUM_SAMPLES)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
