"""What a user may have meant: the nearest field for an unknown one, the nearest of some values."""

import difflib
import re
from collections.abc import Iterable, Sequence

from pydantic import BaseModel

from service.spec.reference import fields_of

# Names of other programs; what they mean here.
FIELD_ALIASES = {
    "lr": "learning_rate",
    "tau": "base_temperature",
    "t": "base_temperature",
    "temp": "base_temperature",
    "bs": "global_batch_size",
    "dtype": "precision",
    "amp": "precision",
    "wd": "weight_decay",
    "ema": "ema_decay",
    "clip_grad": "max_grad_norm",
    "gradient_clipping": "max_grad_norm",
    "gpus": "gpu",
    "arch": "model",
    "lr_steps": "milestones",
}
VALUE_ALIASES = {
    "bf16": "bfloat16",
    "fp32": "float32",
    "fp16": "bfloat16",
    "float16": "bfloat16",
    "half": "bfloat16",
    "amp": "bfloat16",
    "mixed": "bfloat16",
    "32": "float32",
    "16": "bfloat16",
    "full": "float32",
    "step": "multistep",
    "cosineannealing": "cosine",
    "adam": "adamw",
    "momentum": "sgd",
}


def field_paths(model: type[BaseModel]) -> list[str]:
    """Dotted paths of a spec's fields; alternatives and entries of lists are not marked."""
    paths = (re.sub(r"\[\w*\]|\.<key>", "", entry.path) for entry in fields_of(model))
    return list(dict.fromkeys(paths))


def nearest_field(model: type[BaseModel], path: str) -> str | None:
    """The path of the field that a user may have meant by one that does not exist.

    Fields of the same section come before those of others.
    """
    section, _, name = re.sub(r"\.\d+(?=\.|$)", "", path).rpartition(".")
    siblings: dict[str, str] = {}
    others: dict[str, str] = {}
    for known in field_paths(model):
        parent, _, leaf = known.rpartition(".")
        (siblings if parent == section else others).setdefault(leaf, known)
    for fields in (siblings, others):
        for match in (_exact, _with_same_words, _similar):
            if found := match(name, list(fields)):
                return fields[found]
        if fields is siblings and (found := _exact(name, list(others))):
            return others[found]
    return None


def nearest_value(value: object, allowed: Sequence[str]) -> str | None:
    """The allowed value that a user may have meant."""
    name = _normalized(str(value))
    meant = VALUE_ALIASES.get(name.replace("_", ""))
    if meant in allowed:
        return meant
    return _with_same_words(name, allowed) or _similar(name, allowed)


def _normalized(name: str) -> str:
    """As fields are written: batchSize and Batch-Size become batch_size."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[-\s.]+", "_", name).lower()


def _exact(name: str, known: Iterable[str]) -> str | None:
    name = _normalized(name)
    return next((field for field in (name, FIELD_ALIASES.get(name)) if field in known), None)


def _with_same_words(name: str, known: Sequence[str]) -> str | None:
    """The shortest name with all of the words, or all of whose words are among them."""
    words = set(_normalized(name).split("_"))
    found = [
        each
        for each in known
        if words <= set(each.split("_")) or (set(each.split("_")) <= words and len(each) > 2)
    ]
    return min(found, key=len, default=None)


def _similar(name: str, known: Sequence[str]) -> str | None:
    found = difflib.get_close_matches(_normalized(name), known, n=1, cutoff=0.75)
    return found[0] if found else None
