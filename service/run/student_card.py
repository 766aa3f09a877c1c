"""What a student's files say about themselves: its architecture, classes and images.

The card is stored as ``preprocessing.json`` beside the weights, and within them: as strings in the
metadata of the safetensors file.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from data_pipeline.files import write_atomically
from data_pipeline.sources.image_labels import human_names
from service.run.folder import STUDENT_NAME
from service.run.state_files import read_state
from service.spec.job import JobSpec
from service.spec.model_names import AUXILIARY_HEADS, TORCHVISION_MODELS
from service.spec.network_variants import TRANSFORM_KEY, Variant
from service.spec.safetensors_header import LENGTH_BYTES, read_safetensors_header
from service.spec.sections import Weights
from service.spec.weights_metadata import stated_variant

CARD_NAME = "preprocessing.json"
CLASSES_NAME = "classes.json"
MODEL_NAME = "student"
"""Name of the final student among a run's models in MLflow."""


def checkpoint_model_name(step: int) -> str:
    """Name of the student after ``step`` optimizer steps among a run's models in MLflow.

    Each has its own: MLflow takes any model of a name for runs:/ID/NAME, and its charts show names.
    """
    return f"{MODEL_NAME}-step-{step}"


def student_card(
    spec: JobSpec,
    classes: tuple[str, ...] | None,
    weights_path: Path,
    run_id: str | None = None,
    step: int | None = None,
) -> dict[str, Any]:
    """The card of a run's student: the final one, or that after ``step`` optimizer steps.

    ``classes``: those of the dataset by label, if they are known; the card has readable names of
    ImageNet's too. ``weights_path``: the student's weights, as a checkpoint or this module wrote
    them. ``run_id``: its run in MLflow, if it has one yet. Sizes are in pixels.
    Interpolation is in torchvision's terms, which tests/unit/data_pipeline/test_decoding.py tests.
    """
    evaluation, name = spec.evaluation, spec.student.model
    article, moment = ("the ", "last step") if step is None else ("", f"step {step}")
    variant = stated_variant(name, Weights(source=str(weights_path)))
    card = {
        "architecture": name,
        **({TRANSFORM_KEY: variant.transform_input} if name in AUXILIARY_HEADS else {}),
        "num_classes": spec.dataset.num_classes,
        "classes": list(classes) if classes is not None else None,
        "class_names": human_names(classes) if classes is not None else None,
        "resize_shorter_side": evaluation.resize_size,
        "center_crop": evaluation.crop_size,
        "interpolation": "bilinear",
        "antialias": True,
        "scale": "pixels / 255, RGB",
        **spec.dataset.normalization.model_dump(mode="json"),
        "weights": moment if spec.training.ema_decay is None else f"EMA of {article}{moment}",
        "spec_hash": spec.content_hash(),
    }
    model_name = MODEL_NAME if step is None else checkpoint_model_name(step)
    return {**card, "load": load_snippets(spec, variant, run_id, model_name)}


def card_metadata(card: dict[str, Any]) -> dict[str, str]:
    """A card as metadata of a safetensors file: strings; what is not one is JSON."""
    strings = {key: v if isinstance(v, str) else json.dumps(v) for key, v in card.items()}
    return {"format": "pt", **strings}


def write_with_card(source: Path, path: Path, card: dict[str, Any]) -> None:
    """Copy a safetensors file to ``path``, with ``card`` as its metadata and the same tensors.

    Raises:
        OSError: the storage fails.
    """
    header = read_safetensors_header(source)
    with source.open("rb") as old, path.open("wb") as new:
        old.seek(header.num_bytes)
        content = json.dumps({**header.entries, "__metadata__": card_metadata(card)}).encode()
        # The tensors' bytes, which follow, stay aligned.
        content += b" " * (-len(content) % LENGTH_BYTES)
        new.write(len(content).to_bytes(LENGTH_BYTES, "little") + content)
        shutil.copyfileobj(old, new)


def load_snippets(
    spec: JobSpec, variant: Variant, run_id: str | None, model_name: str
) -> dict[str, str]:
    """Three lines of Python that load the student, by what they need.

    They run where the student's files are; the last one with MLFLOW_TRACKING_URI set.
    ``model_name``: that among the run's models in MLflow.
    """
    name, num_classes = spec.student.model, spec.dataset.num_classes
    snippets = {
        "dtkd-service": "from pathlib import Path\n"
        "from service.models.build import load_network\n"
        f'model = load_network(Path("{STUDENT_NAME}"), "{name}", num_classes={num_classes})',
    }
    if name in TORCHVISION_MODELS:
        snippets["torchvision"] = (
            "from safetensors.torch import load_file; from torchvision.models import get_model\n"
            f'model = get_model("{name}", weights=None, num_classes={num_classes}'
            f"{_options(name, variant)})\n{_fill(name, variant)}; model.eval()"
        )
    snippets["pt2"] = (
        "import mlflow\n"
        f'run_id = "{run_id or "ID OF THE RUN IN MLFLOW"}"\n'
        f'model = mlflow.pytorch.load_model(f"runs:/{{run_id}}/{model_name}")'
    )
    return snippets


def _options(name: str, variant: Variant) -> str:
    """What torchvision's builder is given to build the student's variant of a network."""
    options = ""
    if name in AUXILIARY_HEADS:
        options = ", aux_logits=False, init_weights=False"
    if variant.transform_input:
        options += ", transform_input=True"
    if variant.image_size is not None:
        options += f", image_size={variant.image_size}"
    return options


def _fill(name: str, variant: Variant) -> str:
    """The statements that load the weights."""
    if not name.startswith("mnasnet"):
        return f'model.load_state_dict(load_file("{STUDENT_NAME}"))'
    # It only loads a state dict that says its version.
    version = '; weights._metadata[""]["version"] = 1' if variant.has_first_stem else ""
    return (
        f'weights = model.state_dict(); weights.update(load_file("{STUDENT_NAME}")){version}; '
        "model.load_state_dict(weights)"
    )


def write_classes(run_path: Path, classes: tuple[str, ...] | None) -> None:
    """Store the names of the classes in a run's folder, for whoever publishes it later."""
    if classes is not None:
        text = json.dumps(list(classes), ensure_ascii=False) + "\n"
        write_atomically(run_path / CLASSES_NAME, text)


def read_classes(run_path: Path) -> tuple[str, ...] | None:
    """The names of the classes of a run; None where its dataset has no manifest.

    Raises:
        BadInputError: the file is damaged.
        OSError: the storage fails.
    """
    remedy = "submit the spec again, which writes the file"
    return read_state(run_path / CLASSES_NAME, tuple[str, ...], remedy)
