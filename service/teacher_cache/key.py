"""What the teacher's logits of an epoch depend on: runs with equal keys share them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.files import sha256_of
from service.run.execution import Execution
from service.run.folder import read_tags
from service.run.state_files import service_version
from service.spec.job import JobSpec
from service.spec.networks import teacher_networks, weights_tag
from service.spec.sections import is_file_source
from service.spec.teacher_sections import Teacher, TeacherNetwork

Key = dict[str, Any]

FORMAT_VERSION = 1
KEY_LENGTH = 32
OF_RUN_ALONE = {"min_top1", "min_top1_images", "cache", "others"}
"""Fields of a teacher's section that change no logit, and the other networks."""

LOCATION = ("source", "sha256")
"""Fields of weights that say where they are; their digests say what they are."""


def cache_key(
    spec: JobSpec,
    size: int,
    *,
    fingerprint: str,
    digests: Mapping[str, str],
    execution: Mapping[str, str],
) -> Key:
    """All that the teacher's logits of training images of ``size`` pixels depend on, as JSON data.

    The number of the epoch and the place in its order come in addition: they are the name of a file
    and of a row. The size of a batch and the number of workers change logits by rounding only, but
    where samples repeat within a global batch, its size decides which samples these are.

    Args:
        spec: the spec of a run, with a teacher.cache and the classes of its teachers resolved.
        size: of the student's images, in pixels.
        fingerprint: of the file of training images.
        digests: of the teachers' weights, see ``weights_digests``.
        execution: how the networks are run, see ``execution_of``.
    """
    assert spec.teacher is not None
    assert spec.teacher.cache is not None
    dataset, num_views = spec.dataset, spec.num_teacher_views
    repeats_in = spec.training.global_batch_size if spec.augmentation.repeats > 1 else None
    # The weak view is the same whether there is a strong one.
    unused = {"size", "size_stages"} | ({"strong"} if num_views == 1 else set())
    return {
        "format": [FORMAT_VERSION, service_version()],
        "keep": spec.teacher.cache.model_dump(mode="json")["keep"],
        "dataset": fingerprint,
        "num_classes": dataset.num_classes,
        "held_out": dataset.held_out.model_dump(mode="json") if dataset.held_out else None,
        # Erasing fills with its mean; it is the teacher's too where that has none of its own.
        "normalization": dataset.normalization.model_dump(mode="json"),
        "seed": spec.seed,
        "augmentation": spec.augmentation.model_dump(mode="json", exclude=unused),
        "repeats_in": repeats_in,
        "size": size,
        "num_views": num_views,
        "teacher": teacher_settings(spec.teacher),
        "weights": dict(digests),
        "crop_size": spec.evaluation.crop_size,
        "execution": dict(execution),
    }


def execution_of(execution: Execution, device: str) -> dict[str, str]:
    """How a teacher's networks are run, for ``cache_key``; ``device``: its kind, cpu or cuda."""
    return {
        "precision": execution.teacher_precision,
        "teacher_form": execution.teacher_form,
        "cast_teacher": str(execution.cast_teacher),
        "matmul_precision": execution.matmul_precision,
        "device": device,
    }


def digest_of(key: Key) -> str:
    """The name of a key's folder, ``KEY_LENGTH`` hexadecimal digits."""
    text = json.dumps(key, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def weights_digests(spec: JobSpec) -> dict[str, str]:
    """SHA-256 of each teacher's weights, by the network's path, as the run's tags have them.

    Without tags, files are read; what torchvision publishes never changes.

    Raises:
        OSError: a file cannot be read.
    """
    tags = read_tags(spec.run_path)
    digests = {}
    for path, network in teacher_networks(spec.teacher).items():
        source = network.weights.source
        known = tags.get(weights_tag(path))
        digests[path] = known or (sha256_of(Path(source)) if is_file_source(source) else source)
    return digests


def teacher_settings(teacher: Teacher) -> list[dict[str, Any]]:
    """What logits depend on of each network's section, but for where its weights are."""
    return [_network(network) for network in (teacher, *teacher.others)]


def _network(network: TeacherNetwork) -> dict[str, Any]:
    content = network.model_dump(mode="json", exclude=OF_RUN_ALONE)
    weights = content["weights"]
    return {**content, "weights": {k: v for k, v in weights.items() if k not in LOCATION}}
