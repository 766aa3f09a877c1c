"""Specs of jobs, sweeps and comparisons, as files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from fuzz.json_mutators import mutate_json
from fuzz.outcomes import Call
from fuzz.target import Target
from safetensors.torch import save_file
from support.spec_contents import spec_content, write_stripes

from service.compare.loading import load_comparison
from service.models.build import build_model
from service.spec.errors import BadInputError
from service.spec.loading import load_job
from service.sweep.loading import load_sweep

MODEL, NUM_CLASSES = "cifar:tiny_cnn", 4
NUM_IMAGES = {"train": 128, "val": 16}

EVERYTHING: dict[str, Any] = {
    "seed": 3,
    "augmentation": {
        "crop": "random_resized",
        "scale": [0.2, 1.0],
        "ratio": [0.75, 1.33],
        "flip_probability": 0.5,
        "rand_augment": {"magnitude": 9},
        "color_jitter": {"brightness": 0.4, "hue": 0.1},
        "erasing": {"probability": 0.25},
        "mixing": {"mixup_alpha": 0.2},
        "size_stages": [{"from_epoch": 1, "size": 12}],
    },
    "optimizer": {"kind": "adamw", "learning_rate": 0.001, "weight_decay": 0.05},
    "losses": {
        "ce": {"weight": 1, "views": "weak"},
        "dtkd": {"weight": 3, "base_temperature": 4, "sharpness": "norm"},
        "kd": {"weight": 1, "temperature": {"kind": "cosine", "start": 4, "end": 1}},
        "mlkd": {"weight": 0, "temperatures": [2, 4]},
        "entropy_weights": {"temperature": 3},
        "warmup_epochs": 1,
    },
    "tracking": {
        "uri": "http://127.0.0.1:5000",
        "register_as": "small",
        "promote": {"alias": "candidate"},
    },
    "resources": {"num_workers": [1, 2], "heartbeat_timeout_s": 60},
    "checkpoints": {"every_epochs": 1, "every_minutes": None},
}


def write_inputs(folder: Path) -> dict[str, Any]:
    """Datasets and weights in a folder, and the content of a spec that uses them."""
    for number, (name, count) in enumerate(NUM_IMAGES.items()):
        write_stripes(folder / f"{name}.beton", count, seed=number)
    torch.manual_seed(0)
    save_file(build_model(MODEL, NUM_CLASSES).state_dict(), folder / "teacher.safetensors")
    return spec_content(folder, folder / "runs")


def with_sections(content: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """A spec's content with other fields in its sections."""
    merged = dict(content)
    for name, section in sections.items():
        both = isinstance(section, dict) and isinstance(content.get(name), dict)
        merged[name] = {**content[name], **section} if both else section
    return merged


def spec_target(folder: Path) -> Target:
    """A job's spec, as ``jobs/distill.py --validate`` reads it."""
    content = write_inputs(folder)
    teacher = {"model": MODEL, "weights": {"source": str(folder / "teacher.safetensors")}}
    contents = [
        content,
        with_sections(content, {"teacher": teacher}),
        with_sections(content, {"teacher": teacher, **EVERYTHING}),
        with_sections(content, {"dataset": {"held_out": {"num_images": 8}, "max_undecodable": 2}}),
    ]
    path = folder / "spec.json"

    def calls(data: bytes) -> Iterator[Call]:
        path.write_bytes(data)
        yield Call("load_job", lambda: load_job(path), (BadInputError,), (str(path),))

    return Target(folder, [json.dumps(each).encode() for each in contents], mutate_json, calls)


def sweep_target(folder: Path) -> Target:
    """A sweep's spec, as ``jobs/sweep.py --validate`` reads it."""
    content = write_inputs(folder)
    (folder / "base.json").write_text(json.dumps(content))
    teacher = {"model": MODEL, "weights": {"source": str(folder / "teacher.safetensors")}}
    base = with_sections(content, {"teacher": teacher, "schedule": {"num_epochs": 9}})
    sweep = {"name": "sweep", "base": base, "held_out": {"num_images": 16}}
    contents = [
        {**sweep, "budget": {"trials": 4}, "space": {"losses.dtkd.weight": {"linear": [0, 4]}}},
        {**sweep, "base": str(folder / "base.json"), "scheduler": {"kind": "none"},
         "space": {"optimizer.learning_rate": {"log": [0.01, 0.1]}}},
        {
            **sweep,
            "algorithm": {"kind": "grid"},
            "space": {
                "losses.dtkd.sharpness": {"choice": ["max", "norm"]},
                "losses.dtkd.base_temperature": {
                    "log": [1, 8], "points": 2, "when": {"losses.dtkd.sharpness": ["max"]},
                },
            },
        },
    ]  # fmt: skip
    path = folder / "sweep.json"

    def calls(data: bytes) -> Iterator[Call]:
        path.write_bytes(data)
        yield Call("load_sweep", lambda: load_sweep(path), (BadInputError,), (str(path),))

    return Target(folder, [json.dumps(each).encode() for each in contents], mutate_json, calls)


def compare_target(folder: Path) -> Target:
    """A comparison's spec, as ``jobs/compare.py --validate`` reads it."""
    content = write_inputs(folder)
    (folder / "base.json").write_text(json.dumps(content))
    teacher = {"model": MODEL, "weights": {"source": str(folder / "teacher.safetensors")}}
    base = with_sections(content, {"teacher": teacher, "losses": {"ce": {}}})
    compare = {"name": "compare", "base": base, "seeds": [0, 1]}
    kd = {"losses.kd": {"weight": 1}}
    contents = [
        {**compare, "variants": {"kd": kd, "long": {"schedule.num_epochs": 7, **kd}}},
        {**compare, "base": str(folder / "base.json"), "variants": {"wd": {"optimizer": {}}}},
        {
            **compare,
            "variants": {"kd": kd},
            "pairs": {"a": {"student.model": MODEL}, "b": {"student": {"model": "cifar:vgg8"}}},
            "tuned": {"trials": 2, "held_out": {"num_images": 16}},
        },
    ]
    path = folder / "compare.json"

    def calls(data: bytes) -> Iterator[Call]:
        path.write_bytes(data)
        yield Call("load_comparison", lambda: load_comparison(path), (BadInputError,), (str(path),))

    return Target(folder, [json.dumps(each).encode() for each in contents], mutate_json, calls)
