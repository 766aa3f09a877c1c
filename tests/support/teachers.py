"""Datasets whose classes have names, and teachers of more classes, for tests."""

import json

import torch
from safetensors.torch import save_file
from support.image_makers import converted, write_folder

from service.models.build import build_model

# Of ImageNet's labels 0, 217, 482 and 491, in their order.
WNIDS = ("n01440764", "n02102040", "n02979186", "n03000684")


def write_named_datasets(folder, classes):
    """train.beton and val.beton with 20 images of each class; returns a spec's dataset."""
    for split in ("train", "val"):
        root = write_folder(folder / split, len(classes), 20)
        for label, name in enumerate(classes):
            (root / f"class{label}").rename(root / name)
        converted(root, folder / f"{split}.beton")
    files = {split: str(folder / f"{split}.beton") for split in ("train", "val")}
    return {**files, "num_classes": len(classes)}


def write_teacher(path, num_classes, seed=9, model="cifar:resnet8", **card):
    """A teacher section with random weights in a file; ``card``: what the file says about them."""
    torch.manual_seed(seed)
    metadata = {"architecture": model, "num_classes": num_classes, **card} if card else {}
    texts = {k: v if k == "architecture" else json.dumps(v) for k, v in metadata.items()}
    save_file(build_model(model, num_classes).state_dict(), path, texts)
    return {"model": model, "weights": {"source": str(path)}}
