"""A finished run to export, with real files of images whose labels are its own predictions."""

import numpy as np
import torch
from safetensors.torch import load_file
from support.finished_runs import write_finished_run
from support.spec_contents import NUM_CLASSES, SIZE, spec_content

from data_pipeline.encode import encoded
from data_pipeline.writer import BetonWriter
from service.models.build import build_model
from service.run.folder import STUDENT_NAME
from service.run.student_card import write_classes

NAMES = ("n01440764", "dog", "cow", "hen")
MEAN, STD = (0.2, 0.3, 0.4), (0.25, 0.125, 0.5)


def write_run(folder, mean=MEAN, std=STD):
    """A run's folder below ``folder``, and pixels uint8 [70, 16, 16, 3] of its val.

    The labels are predictions with the normalization by MEAN and STD.
    """
    pixels = np.random.default_rng(5).integers(0, 256, (70, SIZE, SIZE, 3), dtype=np.uint8)
    # Blocks of one color each, by which images differ more than by noise.
    pixels = pixels[:, ::8, ::8].repeat(8, axis=1).repeat(8, axis=2)
    write_images(folder, pixels, np.zeros(len(pixels)))
    normalization = {"normalization": {"mean": mean, "std": std}}
    torch.manual_seed(3)
    spec = write_finished_run(spec_content(folder, folder / "runs", dataset=normalization))
    write_classes(spec.run_path, NAMES)
    write_images(folder, pixels, expected_logits(spec.run_path, pixels).argmax(axis=1))
    return spec.run_path, pixels


def write_images(folder, pixels, labels):
    for name in ("train", "val"):
        with BetonWriter(folder / f"{name}.beton", len(pixels)) as writer:
            for image, label in zip(pixels, labels, strict=True):
                writer.append(encoded(1, SIZE, SIZE, image.tobytes()), int(label))


def student(run_path):
    network = build_model("cifar:tiny_cnn", NUM_CLASSES)
    network.load_state_dict(load_file(run_path / STUDENT_NAME))
    return network.eval()


def expected_logits(run_path, pixels):
    """Logits [N, K] in float64, with the normalization written out."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255
    shape = (1, 3, 1, 1)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(shape) for v in (MEAN, STD))
    with torch.inference_mode():
        return student(run_path).double()((x - mean) / std).numpy()


def from_0_to_1(pixels):
    """Float32 images [N, 3, H, W] of pixels [N, H, W, 3]."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32) / 255
