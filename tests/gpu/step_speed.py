"""Images per second of whole steps on a resident batch, and of decoding."""

import time
from collections.abc import Iterator

import torch
from support.resident_steps import resident_steps
from support.spec_contents import write_stripes
from table import Ratio, at_least, at_most

from gpu.bench import NUM_CPUS, Bench
from service.distillation.pixels import FrozenTeacher, PixelBatch, PixelNormalizer
from service.models.build import build_model
from service.spec.data_sections import Normalization
from service.training.profiling.profile import format_profile
from service.training.profiling.profiler import profile_training, read_profile
from service.training.trainer import Trainer

# KD's cost over CE of the same student, and images per second of ResNet-34 -> ResNet-18 on an H100.
KD_COST_GOAL, KD_RATE_GOAL = 1.55, 8000
NUM_DECODED, NUM_PROFILED_BATCHES = 4096, 16


def eager_steps(bench: Bench) -> Iterator[Ratio]:
    """Without a compiler, at each batch size."""
    for batch_size in bench.batch_sizes:
        yield from _steps(bench, batch_size, "off")


def compiled_steps(bench: Bench) -> Iterator[Ratio]:
    """With a compiler, which takes long: at the largest batch size."""
    yield from _steps(bench, max(bench.batch_sizes), "on")


def _steps(bench: Bench, batch_size: int, compiling: str) -> Iterator[Ratio]:
    training = {"global_batch_size": batch_size, "compile": compiling}
    rates = {}
    for name, (student, teacher) in bench.pairs.items():
        spec = bench.spec(student, teacher, training=training)
        with resident_steps(spec, bench.world) as steps:
            rates[name] = bench.rate(steps.step, batch_size)
        bench.release()
        text = f"{name}, {batch_size} images, compile {compiling}: img/s"
        is_bar = name == "R34 -> R18" and batch_size == max(bench.batch_sizes)
        if is_bar and not bench.is_small:
            yield at_least(text, rates[name], KD_RATE_GOAL)
        else:
            yield Ratio(text, round(rates[name], 1), "-", None)
    cost = rates["R18"] / rates["R34 -> R18"]
    text = f"R34 -> R18, {batch_size} images, compile {compiling}: cost over CE"
    yield Ratio(text, cost, "-", None) if bench.is_small else at_most(text, cost, KD_COST_GOAL)


def profiled(bench: Bench) -> Iterator[Ratio]:
    """Where the time of such a step goes, data included."""
    path, batch_size = bench.folder / "many.beton", max(bench.batch_sizes)
    write_stripes(path, NUM_PROFILED_BATCHES * batch_size, seed=3)
    spec = bench.spec(
        *bench.pairs["R34 -> R18"],
        dataset={"train": str(path)},
        training={"global_batch_size": batch_size},
    )
    profile_training(spec, bench.world)
    found = read_profile(spec.run_path)
    assert found is not None, "the run was not aborted"
    print(format_profile(found), flush=True)
    yield Ratio("R34 -> R18: MFU", round(found.mfu, 4), "-", None)
    for part, seconds in found.parts_s.items():
        share = seconds / sum(found.parts_s.values())
        yield Ratio(f"R34 -> R18: share of {part}", round(share, 4), "-", None)


def teacher_stream(bench: Bench) -> Iterator[Ratio]:
    """The teacher on the next batch beside the student's step, against one after the other."""
    if bench.device.type != "cuda":
        return
    batch_size, device = max(bench.batch_sizes), bench.device
    student, teacher = (
        build_model(name, bench.num_classes).to(device).to(memory_format=torch.channels_last)
        for name in ("resnet18", "resnet34")
    )
    frozen = FrozenTeacher(teacher, Normalization()).to(device)
    normalizer = PixelNormalizer(Normalization()).to(device)
    shape = (batch_size, bench.size, bench.size, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    side = torch.cuda.Stream()

    def train_student() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = student(normalizer(pixels)).float().square().mean()
        loss.backward()
        student.zero_grad(set_to_none=True)

    def one_after_the_other() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            frozen(PixelBatch(pixels))
        train_student()

    def beside() -> None:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), torch.autocast("cuda", torch.bfloat16):
            frozen(PixelBatch(pixels))
        train_student()
        torch.cuda.current_stream().wait_stream(side)

    rates = [bench.rate(call, batch_size) for call in (beside, one_after_the_other)]
    name = f"teacher's stream / in order, {batch_size} images ({rates[0]:,.0f} img/s)"
    yield Ratio(name, rates[0] / rates[1], "-", None)


def decoding(bench: Bench) -> Iterator[Ratio]:
    """Training crops per second with all CPUs; beside it, steps that need as many."""
    num_images = 64 if bench.is_small else NUM_DECODED
    path = bench.folder / "photos.beton"
    bench.write_photos(path, num_images)
    batch_size = max(bench.batch_sizes)
    spec = bench.spec(
        *bench.pairs["R34 -> R18"],
        dataset={"train": str(path)},
        training={"global_batch_size": batch_size, "compile": "off"},
    )
    with Trainer(spec, bench.world, lambda: None) as trainer:
        batches = trainer.remaining_batches()
        next(batches)
        start_s = time.perf_counter()
        count = sum(len(batch.labels) for batch in batches)
        rate = count / (time.perf_counter() - start_s)
        yield Ratio(f"decoding alone, {NUM_CPUS} CPUs: img/s", round(rate, 1), "-", None)
        trainer.progress.epoch, trainer.progress.step_in_epoch = 1, 0
        batches = trainer.remaining_batches()
        trainer.step(next(batches))
        start_s, count = time.perf_counter(), 0
        for batch in batches:
            trainer.step(batch)
            count += len(batch.labels)
        if bench.device.type == "cuda":
            torch.cuda.synchronize()
        fed = count / (time.perf_counter() - start_s)
        yield Ratio("R34 -> R18 from photos: img/s", round(fed, 1), "-", None)
