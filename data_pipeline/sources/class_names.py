"""What ImageNet's classes are called by people."""

import json
from collections.abc import Sequence
from pathlib import Path

NAMES_PATH = Path(__file__).with_name("imagenet_classes.json")


def imagenet_names() -> dict[str, str]:
    """Human names of ILSVRC2012's 1,000 classes, by wnid such as n01440764."""
    names: dict[str, str] = json.loads(NAMES_PATH.read_text(encoding="utf-8"))
    return names


def human_names(classes: Sequence[str]) -> list[str]:
    """Human names of the classes that are ImageNet's; others are called what they are."""
    names = imagenet_names()
    return [names.get(name, name) for name in classes]
