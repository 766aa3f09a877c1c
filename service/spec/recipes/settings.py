"""What a method sets for a pair of networks, and the views that two-view methods compare."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from service.spec.recipes.pairs import Content, Pair


class Settings(NamedTuple):
    """``losses``: the section of the spec. ``sections``: fields that differ from the benchmark's.

    ``source``: where these settings were published, if not where the method was.
    """

    losses: Content
    sections: Mapping[str, Any] = MappingProxyType({})
    source: str | None = None


class Method(NamedTuple):
    """A method: where its settings were published, what to know, and the settings by pair.

    The pairs are those of one benchmark, by their short names.
    """

    name: str
    source: str
    note: str
    settings: Mapping[str, Settings]


def for_pairs(pairs: Iterable[Pair], losses: Content, **sections: Content) -> dict[str, Settings]:
    """The same settings for several pairs; ``sections``: fields that differ, by section."""
    return {pair.short_name: Settings(losses, sections) for pair in pairs}


def schedule(num_epochs: int, learning_rate: float) -> Content:
    """Sections with another length and learning rate; the milestones stay."""
    return {
        "schedule": {"num_epochs": num_epochs},
        "optimizer": {"learning_rate": learning_rate},
    }


HALF_BATCH: Content = {
    "training": {"global_batch_size": 256},
    "optimizer": {"learning_rate": 0.1},
}
"""ImageNet with half the batch and learning rate."""

# The code of MLKD and CRLD names RandAugment with 2 operations and magnitude 10, draws each
# strength at random, and then covers a gray square of up to half the image's side.
STRONG_VIEW: Content = {
    "strong": {
        "rand_augment": {"num_ops": 2, "magnitude": 10},
        "erasing": {"probability": 1.0, "scale": [0.001, 0.25], "ratio": [1.0, 1.0]},
    }
}
"""augmentation.strong, as near as a spec can say it."""

TWO_VIEWS: Content = {"augmentation": STRONG_VIEW}


def both_views(weight: float) -> Content:
    """losses.ce of both views."""
    return {"weight": weight, "views": "both"}


def total(name: str, ce_weight: float, warmup_epochs: float, **fields: object) -> Content:
    """losses: cross-entropy, and a loss with these fields and that warm-up."""
    return {"ce": {"weight": ce_weight}, name: fields, "warmup_epochs": warmup_epochs}


def ctkd_total(ce_weight: float, weight: float, ramp_epochs: float, **fields: object) -> Content:
    """losses: CTKD with a temperature from 1 to 21, and cross-entropy."""
    ctkd = {"weight": weight, "minimum": 1.0, "range": 20.0, "ramp_epochs": ramp_epochs}
    return total("ctkd", ce_weight, 0, **ctkd, **fields)


def wkd_total(
    gamma: float, temperature: float, sharpening: float, decay_from_epoch: int
) -> Content:
    """losses: WKD-L with ten iterations of Sinkhorn's algorithm, and cross-entropy."""
    wkd = {
        "gamma": gamma,
        "temperature": temperature,
        "sharpening": sharpening,
        "regularization": 0.05,
        "num_iterations": 10,
        "decay_from_epoch": decay_from_epoch,
    }
    return total("wkd", 1.0, 0, **wkd)


def crld_total(ce_weight: float, within: float, temperature: float) -> Content:
    """losses: CRLD, and cross-entropy of both views."""
    crld = {
        "within": within,
        "across": 0.5,
        "temperature": temperature,
        "weak_confidence": 0.9,
        "strong_confidence": 0.2,
    }
    return {"ce": both_views(ce_weight), "crld": crld, "warmup_epochs": 0}


def mlkd_total(
    ce_weight: float, weight: float, temperatures: list[float], **fields: object
) -> Content:
    """losses: MLKD, and cross-entropy of both views."""
    mlkd = {"weight": weight, "temperatures": temperatures} | fields
    return {"ce": both_views(ce_weight), "mlkd": mlkd, "warmup_epochs": 0}


def dtkd_total(alpha: float, beta: float, sharpness: str, warmup_epochs: float) -> Content:
    """losses: DTKD with the weight alpha, KD with beta, and cross-entropy."""
    return {
        "ce": {"weight": 1.0},
        "dtkd": {"weight": alpha, "base_temperature": 4.0, "sharpness": sharpness, "detach": False},
        "kd": {"weight": beta, "temperature": 4.0},
        "warmup_epochs": warmup_epochs,
    }
