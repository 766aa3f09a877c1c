"""The page of an evaluation: its figures, pictures, classes and speed."""

from collections.abc import Iterator, Sequence

import pandas as pd
import plotly.graph_objects as go

from data_pipeline.text import format_bytes
from service.evaluate import pictures
from service.evaluate.corrupted import corruption_rows
from service.evaluate.corruptions import strengths_text
from service.evaluate.report import EvaluationReport, Latency
from service.evaluate.table import interval_text
from service.pages import page, reliability
from service.run.report import percent

FLOAT32_BYTES = 4
LATENCY_NOTE = (
    "Forward passes in float32 and channels_last on images that are on the device, after a "
    "warm-up. Memory is what the passes add to the weights: of a GPU what torch allocates, of a "
    "CPU by how much the process grows"
)


def render_evaluation_page(report: EvaluationReport) -> str:
    """The page as HTML, in one file that loads no other."""
    parts = [page.facts([*_facts(report)])]
    classes = pictures.classes_figure(report.per_class)
    confusions = pictures.confusions_figure(report.confusions)
    caption = "Of few images in a class, much of a difference between classes is noise."
    parts += _section("Classes", [classes, confusions], caption)
    corruptions = pictures.corruptions_figure(report.top1, report.corruptions)
    calibration = pictures.calibration_figure(report.reliability)
    title = "Calibration and corruptions" if corruptions else "Calibration"
    caption = f"{reliability.CAPTION} ECE is of {len(report.reliability)} bins."
    parts += _section(title, [calibration, corruptions], caption)
    if report.corruptions:
        rows = pd.DataFrame(corruption_rows(report.corruptions, report.top1.value))
        note = (
            "Top-1 in percent, by the strength of what was done to the pixels of the center crops: "
            f"{strengths_text(report.model.crop_size)}"
        )
        parts.append(page.table("Top-1 by corruption", note, rows))
    if report.latency:
        parts.append(page.table("Latency and memory", LATENCY_NOTE, latency_table(report.latency)))
    note = f"{len(report.per_class)} classes; top-1 in percent"
    parts.append(page.table("All classes", note, classes_table(report)))
    return page.render_page(f"Evaluation of {report.model.architecture}", parts)


def classes_table(report: EvaluationReport) -> pd.DataFrame:
    """A row of texts for each class, in the order of the labels."""
    return pd.DataFrame(
        {
            "class": each.name,
            "images": str(each.num_images),
            "top-1 %": "" if each.top1 is None else f"{100 * each.top1:.2f}",
        }
        for each in report.per_class
    )


def latency_table(measured: Sequence[Latency]) -> pd.DataFrame:
    """A row of texts for each batch size; empty where nothing is known."""
    return pd.DataFrame(
        {
            "batch": str(each.batch_size),
            "device": each.device,
            "CPU threads": str(each.num_threads),
            "median ms": f"{1000 * each.median_s:.2f}",
            "95th percentile ms": f"{1000 * each.p95_s:.2f}",
            "images/s": f"{each.images_per_s:.1f}",
            "memory MB": ""
            if each.peak_memory_bytes is None
            else f"{each.peak_memory_bytes / 1e6:.1f}",
        }
        for each in measured
    )


def _facts(report: EvaluationReport) -> Iterator[tuple[str, str]]:
    """Labels and texts of what was evaluated, and of the figures about all images."""
    model, data = report.model, report.data
    yield "Model", model.origin
    yield "Data", f"{data.path}, {data.num_images:,} images, fingerprint {data.fingerprint}"
    yield "Top-1", f"{interval_text(report.top1)}, 95 % interval"
    yield "Top-5", f"{interval_text(report.top5)}, 95 % interval"
    yield "NLL", "not finite" if report.nll is None else f"{report.nll:.4f} nats"
    yield "ECE", "not finite" if report.ece is None else percent(report.ece)
    if report.num_nonfinite:
        yield "Not finite", f"the logits of {report.num_nonfinite:,} images, which count as wrong"
    if report.agreement is not None:
        teacher = report.agreement
        share = f"{percent(teacher.share)} of the images are taken for one class by both"
        yield "Agreement", f"{share}; {teacher.origin} has top-1 {interval_text(teacher.top1)}"
    if report.mean_corrupted_top1 is not None:
        num = len(report.corruptions)
        yield "Corrupted images", f"top-1 {percent(report.mean_corrupted_top1)}, mean of {num} ways"
    size = format_bytes(FLOAT32_BYTES * model.num_parameters)
    parameters = f"{model.num_parameters:,} parameters, {size} in float32"
    yield "Architecture", f"{model.architecture}, {model.num_classes} classes, {parameters}"
    means, stds = (" ".join(f"{v:.4g}" for v in values) for values in (model.mean, model.std))
    sizes = f"shorter side to {model.resize_size} px, center crop of {model.crop_size} px"
    origin = model.preprocessing_origin
    yield "Images", f"{sizes}, mean {means}, deviation {stds} (from {origin})"
    yield "Weights", f"SHA-256 {model.weights_sha256}"
    yield "Computed", f"in {report.precision} on {report.device}"


def _section(title: str, figures: Sequence[go.Figure | None], caption: str) -> Iterator[str]:
    """A heading and the figures, if there are any."""
    drawn = [figure for figure in figures if figure is not None]
    if drawn:
        yield page.heading(title)
        yield page.picture(drawn, caption)
