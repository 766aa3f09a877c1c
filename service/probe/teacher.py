"""Probes a run's teacher in this process: without a cluster, and without the run's folder."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from data_pipeline.batches import UndecodableSampleError
from service.distillation.pixels import FrozenTeacher
from service.plan import build_models_on_meta
from service.probe.causes import Context, find_causes
from service.probe.report import format_probe
from service.probe.sampling import TeacherSampler
from service.run.control import RunAbortedError
from service.run.execution import Execution
from service.spec.data_sections import Normalization
from service.spec.errors import BadInputError, Problem
from service.spec.job import JobSpec
from service.spec.loading import LoadedJob
from service.spec.networks import changed_networks, teacher_networks
from service.spec.sections import is_mlflow_source
from service.spec.teacher_classes import with_resolved_classes
from service.training.factory import build_teacher


def probe_teacher(job: LoadedJob) -> str:
    """Whether the teacher is usable for the run: figures and warnings, in lines.

    Raises:
        BadInputError: there is no teacher, it cannot be built, or images cannot be read.
    """
    section = job.spec.teacher
    if section is None:
        remedy = "add the teacher that is to be probed"
        raise BadInputError("spec", [Problem("teacher", "is absent", remedy)])
    with tempfile.TemporaryDirectory() as folder:
        spec = _as_trained(job, folder)
        build_models_on_meta(spec)
        # Reading data looks into the run's folder, which is none of the probe's business.
        spec = spec.located_at(Path(folder) / "run")
        device = torch.device("cuda" if spec.resources.gpu and torch.cuda.is_available() else "cpu")
        teacher = build_teacher(spec, device, Execution.plain(spec))
        # Several teachers may have a normalization each: none of them is varied.
        others = other_normalizations(job) if isinstance(teacher, FrozenTeacher) else {}
        try:
            sample = TeacherSampler(spec, teacher, device).sample(others)
        except (RunAbortedError, UndecodableSampleError) as error:
            wrong, _, remedy = str(error).rpartition("; ")
            raise BadInputError("spec", [Problem("dataset", wrong, remedy)]) from error
    context = Context(
        others,
        job.classes,
        has_train_labels=not spec.dataset.unlabeled,
        own_indices=_own_indices(spec, teacher),
        has_list=section.classes is not None,
    )
    return format_probe(spec, sample, list(find_causes(sample, context)))


def _own_indices(spec: JobSpec, teacher: nn.Module) -> Sequence[int] | None:
    """A single network's index of each of the dataset's classes."""
    if not isinstance(teacher, FrozenTeacher):
        return None
    classes = teacher.classes
    return range(spec.dataset.num_classes) if classes is None else classes.tolist()


def other_normalizations(job: LoadedJob) -> dict[str, Normalization]:
    """Normalizations in use, by name, without the teacher's."""
    spec = job.spec
    assert spec.teacher is not None
    candidates = {
        "the dataset's": spec.dataset.normalization,
        "ImageNet's": Normalization(),
        "mean and std 0.5": Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        "pixels from 0 to 1": Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    }
    if job.train.normalization is not None:
        own = Normalization.model_validate(job.train.normalization)
        candidates["the pixels' own mean and std"] = own
    known = [spec.teacher.normalization or spec.dataset.normalization]
    others = {}
    for name, normalization in candidates.items():
        if normalization not in known:
            known.append(normalization)
            others[name] = normalization
    return others


def _as_trained(job: LoadedJob, folder: str) -> JobSpec:
    """The spec as a worker gets it: weights as files, those of MLflow in ``folder``."""
    spec, changes = job.spec, {}
    for path, network in teacher_networks(spec.teacher).items():
        weights = network.weights
        if is_mlflow_source(weights.source):
            local = weights.model_copy(update={"source": str(_download(spec, path, folder))})
            changes[path] = {"weights": local}
    spec = spec.model_copy(update=changed_networks(spec.student, spec.teacher, changes))
    return with_resolved_classes(spec, job.classes)


def _download(spec: JobSpec, network_path: str, folder: str) -> Path:
    # Imported here: MLflow is slow to import, and most teachers are files.
    import mlflow

    from service.tracking.mlflow_run import tracking_uri
    from service.tracking.weights_source import download_weights

    mlflow.set_tracking_uri(tracking_uri(spec))
    source = teacher_networks(spec.teacher)[network_path].weights.source
    own_folder = Path(folder) / network_path
    own_folder.mkdir()
    return download_weights(source, str(own_folder), f"{network_path}.weights.source")
