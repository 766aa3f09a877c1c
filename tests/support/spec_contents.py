"""Datasets of stripes and specs that train on them, for tests and benchmarks."""

from pathlib import Path

import numpy as np

from data_pipeline.encode import encoded
from data_pipeline.writer import BetonWriter

NUM_CLASSES = 4
SIZE = 16
KD = {"losses": {"ce": {}, "kd": {"weight": 1}}}
"""A variant of a comparison."""


def write_stripes(path: Path, num_images: int, seed: int) -> None:
    """Write images of noise with a bright stripe, whose position depends on the class."""
    generator = np.random.default_rng(seed)
    with BetonWriter(path, num_images) as writer:
        for index in range(num_images):
            label = index % NUM_CLASSES
            pixels = generator.integers(0, 130, (SIZE, SIZE, 3))
            pixels[4 * label : 4 * label + 4] += 60
            data = pixels.astype(np.uint8).tobytes()
            writer.append(encoded(1, SIZE, SIZE, data), label)


def spec_content(data_folder, storage_path, **sections):
    """A spec's JSON content; sections given replace the defaults' fields."""
    content = {
        "name": "run",
        "dataset": {
            "train": str(data_folder / "train.beton"),
            "val": str(data_folder / "val.beton"),
            "num_classes": NUM_CLASSES,
        },
        "augmentation": {"crop": "pad_and_crop", "size": SIZE, "padding": 1},
        "student": {"model": "cifar:tiny_cnn"},
        "optimizer": {"learning_rate": 0.05},
        "schedule": {"num_epochs": 2, "milestones": [1]},
        "training": {"global_batch_size": 64, "micro_batch_size": 16},
        "resources": {"num_workers": 2, "cpus_per_worker": 1, "max_failures": 0},
        "checkpoints": {"storage_path": str(storage_path)},
        "evaluation": {"resize_size": SIZE, "crop_size": SIZE, "batch_size": 32},
        "tracking": {"log_every_steps": 2},
    }
    for name, section in sections.items():
        merges = isinstance(section, dict) and isinstance(content.get(name), dict)
        content[name] = {**content[name], **section} if merges else section
    # Another kind of crop or of schedule has no use for these.
    for name, kind, usual, field in (
        ("augmentation", "crop", "pad_and_crop", "padding"),
        ("schedule", "kind", "multistep", "milestones"),
    ):
        if sections.get(name, {}).get(kind, usual) != usual and field not in sections[name]:
            content[name].pop(field, None)
    return content
