"""What a user may have meant: the nearest field for an unknown one, the nearest of some values."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

from pydantic import BaseModel

from service.spec.reference import nested_sections

MAX_SHORT_NAME = 5
# Names of other programs; what they mean here.
FIELD_ALIASES = {
    "epochs": "num_epochs",
    "lr": "learning_rate",
    "tau": "temperature",
    "t": "temperature",
    "temp": "temperature",
    "base_temperature": "temperature",
    "crossentropy": "ce",
    "cross_entropy": "ce",
    "bs": "global_batch_size",
    "dtype": "precision",
    "amp": "precision",
    "wd": "weight_decay",
    "ema": "ema_decay",
    "clip_grad": "max_grad_norm",
    "max_lr": "learning_rate",
    "gradient_clipping": "max_grad_norm",
    "gradient_checkpointing": "checkpoint_activations",
    "grad_checkpointing": "checkpoint_activations",
    "gpus": "gpu",
    "num_gpus": "gpu",
    "path": "source",
    "file": "source",
    "server": "uri",
    "type": "kind",
    "arch": "model",
    "keep": "newest",
}
# The same within a section only: elsewhere they are other things.
SYMBOLS = {
    "alpha": ("weight",),
    "beta": ("weight", "betas"),
    "beta1": ("betas", "momentum"),
    "beta2": ("betas",),
    "gamma": ("weight", "decay_factor"),
    "lambda": ("weight",),
    "eps": ("epsilon",),
    "trust_coef": ("trust_coefficient",),
    "lr_steps": ("milestones",),
    "step_size": ("milestones",),
    "decay_rate": ("decay_factor",),
    "pct_start": ("rise_fraction",),
    "min_lr": ("final_fraction",),
    "lr_min": ("final_fraction",),
    "eta_min": ("final_fraction",),
    "final_div_factor": ("final_fraction",),
    "div_factor": ("initial_fraction",),
    "t_max": ("num_epochs",),
    "total_steps": ("num_epochs",),
}
VALUE_ALIASES = {
    "bf16": "bfloat16",
    "fp32": "float32",
    "fp16": "float16",
    "half": "float16",
    "amp": "auto",
    "mixed": "auto",
    "32": "float32",
    "16": "bfloat16",
    "full": "float32",
    "step": "multistep",
    "cosineannealing": "cosine",
    "polynomial": "poly",
    "adam": "adamw",
    "momentum": "sgd",
}


def nearest_field(
    model: type[BaseModel], location: Sequence[str | int], kind: str | None = None
) -> str | None:
    """The path of the field that a user may have meant by one that does not exist.

    ``location``: the keys and indices that lead to it. ``kind``: of the section, where there are
    alternatives. Fields of the same section come before those of others; of these, fields within
    the same outermost section come first.
    """
    location, is_field = _in_existing_section(model, location)
    *parents, name = map(str, location)
    if is_field:
        return ".".join([*parents, name])
    given = ".".join([*parents, name])
    siblings = {
        field: ".".join([*parents, field])
        for section in sections_at(model, parents)
        if kind in (None, _kind(section))
        for field in section.model_fields
        if field != name
    }
    near: dict[str, str] = {}
    far: dict[str, str] = {}
    for path in _field_paths(model):
        # A field of another kind of section may have the same path.
        if path != given:
            fields = near if path.startswith(f"{location[0]}.") else far
            fields.setdefault(path.rpartition(".")[2], path)
    if _normalized(name) in SYMBOLS:
        far.clear()
    for match, fields in (
        (_exact, siblings),
        (_symbol, siblings),
        (_with_all_words, siblings),
        (_exact, near),
        (_exact, far),
        (_similar, siblings),
        (_with_the_letters, siblings),
        (_with_some_words, siblings),
        (_with_all_words, near),
        (_with_all_words, far),
        (_similar, near),
        (_similar, far),
    ):
        if found := match(name, list(fields)):
            return fields[found]
    return None


def kinds_with(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The kinds of the sections that may be there, and have the last field of ``location``."""
    *parents, name = map(str, location)
    kinds = [_kind(one) for one in sections_at(model, parents) if name in one.model_fields]
    return [kind for kind in kinds if kind is not None]


def _kind(section: type[BaseModel]) -> str | None:
    """The only kind that a section may have; None where it has no kind, or several."""
    field = section.model_fields.get("kind")
    kinds = get_args(field.annotation) if field is not None else ()
    return str(kinds[0]) if len(kinds) == 1 else None


def _in_existing_section(
    model: type[BaseModel], location: Sequence[str | int]
) -> tuple[Sequence[str | int], bool]:
    """The location within the section that was meant, if it names one that does not exist.

    Also whether the field exists there.
    """
    sections, is_entry = [model], False
    for place, part in enumerate(location[:-1]):
        if is_entry:
            # The key of a mapping or the index of a list.
            is_entry = False
            continue
        fields = [one.model_fields[part] for one in sections if part in one.model_fields]
        nested = [pair for field in fields for pair in nested_sections(field.annotation)]
        if sections and not fields:
            nearest = nearest_field(model, location[: place + 1])
            if nearest is None:
                break
            meant = [*nearest.split("."), *location[place + 1 :]]
            known = sections_at(model, list(map(str, meant[:-1])))
            return meant, any(location[-1] in section.model_fields for section in known)
        sections, is_entry = [one for _, one in nested], any(suffix for suffix, _ in nested)
    return location, False


def sections_at(model: type[BaseModel], parents: Sequence[str]) -> list[type[BaseModel]]:
    """The sections that may be at a location; indices and keys of mappings change nothing."""
    sections = [model]
    for parent in parents:
        fields = [each.model_fields[parent] for each in sections if parent in each.model_fields]
        if fields:
            sections = [each for f in fields for _, each in nested_sections(f.annotation)]
    return sections


def _field_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted paths of all fields, those of inner sections after their section."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for suffix, section in nested_sections(field.annotation):
            if not suffix:
                yield from _field_paths(section, f"{prefix}{name}.")


def nearest_value(value: object, allowed: Sequence[str]) -> str | None:
    """The allowed value that a user may have meant."""
    name = _normalized(str(value))
    meant = VALUE_ALIASES.get(name.replace("_", ""))
    if meant in allowed:
        return meant
    return _with_all_words(name, allowed) or _similar(name, allowed)


def _normalized(name: str) -> str:
    """As fields are written: batchSize and Batch-Size become batch_size."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[-\s.]+", "_", name).lower()


def _exact(name: str, known: Iterable[str]) -> str | None:
    name = _normalized(name)
    # What users mean by a word comes before a field that happens to have this name elsewhere.
    return next((field for field in (FIELD_ALIASES.get(name, ""), name) if field in known), None)


def _symbol(name: str, known: Iterable[str]) -> str | None:
    """What a Greek letter, or a parameter of torch's schedulers, means in its section."""
    return next((field for field in SYMBOLS.get(_normalized(name), ()) if field in known), None)


def _with_all_words(name: str, known: Sequence[str]) -> str | None:
    """The first field that has all words of the name, or of what it means here."""
    name = _normalized(name)
    for words in (set(text.split("_")) for text in (name, FIELD_ALIASES.get(name, name))):
        if found := next((each for each in known if words <= set(each.split("_"))), None):
            return found
    return None


def _with_some_words(name: str, known: Sequence[str]) -> str | None:
    """The longest field all of whose words are in the name."""
    words = set(_normalized(name).split("_"))
    return max((each for each in known if set(each.split("_")) <= words), key=len, default=None)


def _with_the_letters(name: str, known: Sequence[str]) -> str | None:
    """The shortest field with all letters of a short name, in any order, and at most one more.

    Names of a few letters, as losses have them, are not alike enough for ``_similar``.
    """
    letters = Counter(_normalized(name))
    if not 1 < letters.total() <= MAX_SHORT_NAME:
        return None
    found = [each for each in known if letters <= Counter(each) and len(each) <= len(name) + 1]
    return min(found, key=len, default=None)


def _similar(name: str, known: Sequence[str]) -> str | None:
    found = difflib.get_close_matches(_normalized(name), known, n=1, cutoff=0.75)
    return found[0] if found else None
