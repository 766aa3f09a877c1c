"""The card of a student for people: what it is, how it was trained, what it can do and cannot.

Its parts are those of a model card of Hugging Face, where there is something to say; it goes with
the weights as README.md, and is the description of a registered version.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from data_pipeline.uris import redacted
from service.run.execution import precision_text
from service.run.folder import VERSION_TAG
from service.run.journal import Event
from service.run.report import SPLIT_WORDS, percent
from service.spec.job import JobSpec
from service.tracking.markdown import code_block, escaped, table

README_NAME = "README.md"
MAX_CLASSES = 20
FINGERPRINT_LENGTH = 12
LIMITS = """\
- It tells apart these classes and no others: any image gets one of them.
- It was measured on the images named above, and on no others: other cameras, places, times or
  damages were not. `jobs/evaluate.py`, also with `--corruptions`, measures on others.
- What is wrong or uneven in the training data, and what the teacher gets wrong, it may have
  learned. Accuracies of classes differ.
- Its probabilities are as reliable as the calibration error says, where one is given, and on
  such images only.
- Nobody has examined it for decisions about people or about safety."""


def model_card(
    spec: JobSpec, card: Mapping[str, Any], evaluation: Event, tags: Mapping[str, str]
) -> str:
    """The card as Markdown.

    ``card``: that of ``student_card``. ``evaluation``: the event of the journal with the student's
    figures. ``tags``: of the run.
    """
    parts = [
        f"# {escaped(spec.name)}",
        _summary(spec),
        "## Figures",
        _figures(spec, evaluation, tags),
        "## Training",
        table("Trained with", _training(spec, tags)),
        "## Intended use and limits",
        f"Classification of RGB images into {spec.dataset.num_classes} classes{_classes(card)}.",
        LIMITS,
        "## Input",
        _preprocessing(card),
        "## Use",
        "Beside the files of this model; the last one with MLFLOW_TRACKING_URI set:",
        *(code_block(snippet, "python") for snippet in card["load"].values()),
    ]
    return "\n\n".join(parts) + "\n"


def losses_text(spec: JobSpec) -> str:
    """The losses with their weights, such as ce x 1, dtkd x 3."""
    active = spec.effective_losses().active
    return ", ".join(f"{name} x {loss.weight:g}" for name, loss in active.items())


def teacher_text(spec: JobSpec) -> str:
    """The networks of the teacher, with the source of their weights."""
    networks = [spec.teacher, *spec.teacher.others] if spec.teacher is not None else []
    return ", ".join(f"{each.model} ({redacted(each.weights.source)})" for each in networks)


def _summary(spec: JobSpec) -> str:
    student = f"{escaped(spec.student.model)} for {spec.dataset.num_classes} classes of images"
    if spec.uses_teacher:
        return f"{student}, trained by knowledge distillation from {escaped(teacher_text(spec))}."
    return f"{student}, trained on labels, without a teacher."


def _figures(spec: JobSpec, evaluation: Event, tags: Mapping[str, str]) -> str:
    group = spec.dataset.evaluated
    names = {
        "Top-1 accuracy": "top1",
        "Top-5 accuracy": "top5",
        "Calibration error (ECE)": "ece",
        "Agreement with the teacher": "agreement",
    }
    values = {label: evaluation.values.get(f"{group}/{name}") for label, name in names.items()}
    rows = [(label, percent(value)) for label, value in values.items() if value is not None]
    if group == "val":
        data = _data_text(redacted(spec.dataset.val), "val", tags)
    else:
        data = SPLIT_WORDS[group]
    is_last = evaluation.epoch == spec.schedule.num_epochs
    when = f"after epoch {evaluation.epoch} of {spec.schedule.num_epochs}"
    choice = "" if is_last else "; if it was chosen by them, they flatter it"
    return f"{table('Measured', rows)}\n\nOn {escaped(data)}, {when}{choice}."


def _training(spec: JobSpec, tags: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    schedule, training = spec.schedule, spec.training
    yield "Data", _data_text(redacted(spec.dataset.train), "train", tags)
    if spec.uses_teacher:
        yield "Teacher", teacher_text(spec)
    yield "Losses", losses_text(spec)
    yield "Epochs", str(schedule.num_epochs)
    yield "Global batch", f"{training.global_batch_size} images, {precision_text(spec)}"
    yield "Seed", str(spec.seed)
    if training.ema_decay is not None:
        yield "Weights", f"average of the training's (EMA, decay {training.ema_decay:g})"
    software = (tags.get(VERSION_TAG, ""), tags.get("git_revision", ""))
    yield "Software", "dtkd-service " + ", ".join(filter(None, software))
    yield "Hash of the spec", spec.content_hash()


def _data_text(location: str, split: str, tags: Mapping[str, str]) -> str:
    count = tags.get(f"dataset_{split}_num_images")
    fingerprint = tags.get(f"dataset_{split}_fingerprint", "")[:FINGERPRINT_LENGTH]
    texts = [location, f"{count} images" if count else ""]
    texts.append(f"fingerprint {fingerprint}" if fingerprint else "")
    return ", ".join(filter(None, texts))


def _classes(card: Mapping[str, Any]) -> str:
    names = card["class_names"]
    if not names:
        return ""
    more = f" and {len(names) - MAX_CLASSES} more" if len(names) > MAX_CLASSES else ""
    return f": {escaped(', '.join(names[:MAX_CLASSES]))}{more}"


def _preprocessing(card: Mapping[str, Any]) -> str:
    mean, std = (", ".join(f"{value:g}" for value in card[name]) for name in ("mean", "std"))
    return (
        f"The shorter side is resized to {card['resize_shorter_side']} pixels "
        f"({card['interpolation']}, with antialiasing), the center of {card['center_crop']} x "
        f"{card['center_crop']} pixels is cropped; RGB / 255, minus mean ({mean}), divided by std "
        f"({std}). `preprocessing.json` has the same, and all classes by label."
    )
