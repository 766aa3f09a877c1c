"""One evaluation: find the model, run it over the data, write and log what was found."""

import os
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from service.evaluate.corrupted import corrupted_accuracies, mean_corrupted_top1
from service.evaluate.dataset import EvaluatedData, logit_indices, names_of_classes, open_data
from service.evaluate.latency import measure_latency
from service.evaluate.locate import refuse
from service.evaluate.page import render_evaluation_page
from service.evaluate.predict import Execution, center_crops, classifier, predict
from service.evaluate.report import (
    CorruptedAccuracy,
    DataFacts,
    EvaluationReport,
    ModelFacts,
    TeacherAgreement,
    finite_or_none,
)
from service.evaluate.request import (
    EvaluationFailedError,
    EvaluationRequest,
    ModelRequest,
    write_outputs,
)
from service.evaluate.source import FoundModel, find_model
from service.evaluate.statistics import (
    accuracy_by_class,
    mean_loss,
    reliability_bins,
    wilson_interval,
    worst_confusions,
)
from service.evaluate.table import format_report
from service.models.build import num_parameters
from service.run.predictions import INVALID, Predictions, agreement, reliability
from service.run.report import print_now
from service.spec.sections import is_mlflow_source
from service.training.distributed import prepare_process

REPORT_NAME, PAGE_NAME = "report.json", "report.html"


class _Subject(NamedTuple):
    """A model, and which of its logits are of the data's classes; None for all."""

    model: FoundModel
    indices: tuple[int, ...] | None


def run_evaluation(request: EvaluationRequest) -> None:
    """Evaluate, print the report, write it, and log it.

    Raises:
        BadInputError: the model, the data or the destination cannot be used.
        EvaluationFailedError: MLflow lets a model not be fetched; or it does not take the results,
            which have been printed and written.
        OSError: the storage fails.
    """
    data, execution = open_data(request.data_path), _execution(request)
    with TemporaryDirectory() as folder:
        own = _subject(request, request.model, data, Path(folder))
        teacher = None
        if request.teacher is not None:
            teacher = _subject(request, request.teacher, data, Path(folder))
    uri = _destination(request, own.model) if request.tracking.is_logged else None
    report = _evaluated(request, data, own, teacher, execution)
    text, page = report.as_json(), render_evaluation_page(report)
    print_now(format_report(report))
    outputs = {request.json_path: text, request.html_path: page}
    write_outputs({path: content for path, content in outputs.items() if path is not None})
    if uri is not None:
        files = {REPORT_NAME: text, PAGE_NAME: page}
        print_now(f"MLflow: {_log(request, data, own.model, report, files, uri)}")


def _execution(request: EvaluationRequest) -> Execution:
    if request.gpu and not torch.cuda.is_available():
        refuse("--gpu", "is set, but torch finds no GPU here", "leave it out")
    device = torch.device("cuda" if request.gpu else "cpu")
    prepare_process(device)
    num_threads = len(os.sched_getaffinity(0))
    return Execution(device, request.precision, request.batch_size, num_threads)


def _subject(
    request: EvaluationRequest, wanted: ModelRequest, data: EvaluatedData, folder: Path
) -> _Subject:
    uri, own_folder = request.tracking.uri, folder / wanted.options.argument
    own_folder.mkdir()
    indices_of = partial(logit_indices, data, options=wanted.options, by_name=wanted.by_name)
    model = find_model(wanted.source, wanted.options, uri, own_folder, indices_of)
    for note in model.notes:
        print_now(note)
    return _Subject(model, indices_of(model))


def _evaluated(
    request: EvaluationRequest,
    data: EvaluatedData,
    own: _Subject,
    teacher: _Subject | None,
    execution: Execution,
) -> EvaluationReport:
    model = own.model
    found, corruptions = _predicted(request, data, own, execution)
    names = names_of_classes(data, model)
    agreed = None if teacher is None else _agreement(teacher, found, data, execution)
    # Last: it changes how the process allocates memory.
    latency = measure_latency(model.network, model.preprocessing.crop_size, execution.device)
    return EvaluationReport(
        model=_model_facts(model),
        data=_data_facts(data, len(names)),
        top1=wilson_interval(int(found.are_right.sum()), len(found.labels)),
        top5=wilson_interval(int(found.in_top5.sum()), len(found.labels)),
        nll=mean_loss(found),
        ece=finite_or_none(reliability(found).calibration_error),
        num_nonfinite=int((found.predicted == INVALID).sum()),
        per_class=accuracy_by_class(found, names),
        confusions=worst_confusions(found, names),
        reliability=reliability_bins(found),
        agreement=agreed,
        latency=tuple(latency),
        corruptions=tuple(corruptions),
        mean_corrupted_top1=mean_corrupted_top1(corruptions) if corruptions else None,
        precision=execution.precision,
        device=_device_name(execution.device),
    )


def _predicted(
    request: EvaluationRequest, data: EvaluatedData, own: _Subject, execution: Execution
) -> tuple[Predictions, list[CorruptedAccuracy]]:
    """What is predicted for all images, and how often rightly for corrupted ones, if asked for."""
    seed, num_threads = request.corruption_seed, execution.num_threads
    classify = classifier(own.model, own.indices, execution)
    with center_crops(data, own.model.preprocessing, execution) as batches:
        found = predict(classify, batches(), execution)
        if seed is None:
            return found, []
        corrupted = corrupted_accuracies(classify, batches(), seed=seed, num_threads=num_threads)
    return found, corrupted


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _agreement(
    teacher: _Subject, found: Predictions, data: EvaluatedData, execution: Execution
) -> TeacherAgreement:
    """The teacher sees the images as it prepares them itself."""
    model = teacher.model
    classify = classifier(model, teacher.indices, execution)
    with center_crops(data, model.preprocessing, execution) as batches:
        others = predict(classify, batches(), execution)
    top1 = wilson_interval(int(others.are_right.sum()), len(others.labels))
    return TeacherAgreement(model.origin, agreement(found, others), top1)


def _model_facts(model: FoundModel) -> ModelFacts:
    resize_size, crop_size, normalization = model.preprocessing
    origin = model.preprocessing_origin
    if model.interpolation != "bilinear":
        origin += f" (published with {model.interpolation} resizing, here bilinear)"
    return ModelFacts(
        model.origin,
        model.architecture,
        model.num_classes,
        num_parameters(model.network),
        model.weights_sha256,
        resize_size,
        crop_size,
        normalization.mean,
        normalization.std,
        origin,
    )


def _data_facts(data: EvaluatedData, num_classes: int) -> DataFacts:
    file = data.file
    return DataFacts(str(file.path), file.fingerprint, file.num_samples, num_classes)


def _destination(request: EvaluationRequest, model: FoundModel) -> str:
    """Where the results are logged: where a run is tracked, if no server is given."""
    from service.evaluate.publish import check_destination
    from service.tracking.sync_destination import sync_destination

    uri = request.tracking.uri
    if uri is None and model.spec is not None:
        uri = sync_destination(model.spec).uri
    if uri is None:
        remedy = "give --tracking-uri, or set MLFLOW_TRACKING_URI"
        refuse("--mlflow", "is set, but no server is given", remedy)
    check_destination(uri, request.tracking.experiment)
    return uri


def _log(
    request: EvaluationRequest,
    data: EvaluatedData,
    model: FoundModel,
    report: EvaluationReport,
    files: dict[str, str],
    uri: str,
) -> str:
    """The address of the run in MLflow."""
    from service.evaluate.publish import log_evaluation
    from service.tracking.mlflow_run import TRACKING_ERRORS
    from service.tracking.refusals import unanswered_text

    source, experiment = request.model.source, request.tracking.experiment
    short = source.rstrip("/").rpartition("/")[2]
    if is_mlflow_source(source):
        short = source.partition(":/")[2].strip("/")
    name = f"{short if model.spec is None else model.spec.name} on {data.file.path.stem}"
    try:
        return log_evaluation(
            report, model, data.facts, files, name=name, uri=uri, experiment=experiment
        )
    except TRACKING_ERRORS as error:
        text = f"the results are not logged: {unanswered_text(uri, error)}"
        raise EvaluationFailedError(text) from error
