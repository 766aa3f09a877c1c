"""The report of an evaluation as text."""

from collections.abc import Iterator, Sequence

from service.evaluate.corrupted import corruption_rows
from service.evaluate.report import ClassAccuracy, EvaluationReport, Interval
from service.run.report import percent

NUM_CLASSES_SHOWN = 10


def format_report(report: EvaluationReport) -> str:
    """The report, in lines of a table for each part."""
    parts = [
        [*_aligned([*_facts(report), *_figures(report)])],
        [*_classes(report.per_class)],
        [*_confusions(report)],
        [*_latency(report)],
        [*_corruptions(report)],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _facts(report: EvaluationReport) -> Iterator[tuple[str, str]]:
    model, data = report.model, report.data
    size = f"{model.num_parameters / 1e6:.2f} million parameters"
    yield "model", f"{model.origin}: {model.architecture}, {model.num_classes:,} classes, {size}"
    mean, std = (" ".join(f"{x:.4g}" for x in channels) for channels in (model.mean, model.std))
    sizes = f"resized to {model.resize_size} px, center crop of {model.crop_size} px"
    yield "images", f"{sizes}, mean {mean}, std {std}: {model.preprocessing_origin}"
    yield "data", f"{data.path}: {data.num_images:,} images, {data.num_classes:,} classes"
    yield "run on", f"{report.device}, {report.precision}"


def _figures(report: EvaluationReport) -> Iterator[tuple[str, str]]:
    yield "top-1", interval_text(report.top1)
    yield "top-5", interval_text(report.top5)
    yield "NLL", "not finite" if report.nll is None else f"{report.nll:.4f}"
    yield "ECE", percent(report.ece)
    if report.num_nonfinite:
        yield "not finite", f"logits of {report.num_nonfinite:,} images, which count as wrong"
    if report.agreement is not None:
        teacher = report.agreement
        yield "teacher", f"{teacher.origin}: top-1 {interval_text(teacher.top1)}"
        yield "agreement", f"{percent(teacher.share)} of the images"
    if report.mean_corrupted_top1 is not None:
        yield "corrupted", f"top-1 {percent(report.mean_corrupted_top1)}, mean of all below"


def interval_text(interval: Interval) -> str:
    """A share with its interval, in percent."""
    return f"{percent(interval.value)} ({percent(interval.low)} to {percent(interval.high)})"


def _classes(classes: Sequence[ClassAccuracy]) -> list[str]:
    """The worst classes, or all if they are few."""
    known = sorted((each for each in classes if each.top1 is not None), key=_accuracy)
    shown = known[:NUM_CLASSES_SHOWN]
    title = "class" if len(shown) == len(known) else f"worst of {len(known):,} classes"
    rows = [(title, "images", "top-1")]
    rows += [(each.name, f"{each.num_images:,}", percent(each.top1)) for each in shown]
    return _aligned(rows)


def _accuracy(found: ClassAccuracy) -> float:
    assert found.top1 is not None, "it has images"
    return found.top1


def _confusions(report: EvaluationReport) -> list[str]:
    rows = [("worst classes", "taken for", "images", "share")]
    rows += [
        (c.true, c.predicted, f"{c.num_images:,}", percent(c.share)) for c in report.confusions
    ]
    return _aligned(rows) if report.confusions else []


def _latency(report: EvaluationReport) -> list[str]:
    rows: list[tuple[str, ...]] = [("batch", "median ms", "95th percentile ms", "img/s", "peak MB")]
    for each in report.latency:
        peak = "-" if each.peak_memory_bytes is None else f"{each.peak_memory_bytes / 1e6:,.0f}"
        times = (f"{1000 * seconds:.2f}" for seconds in (each.median_s, each.p95_s))
        rows.append((str(each.batch_size), *times, f"{each.images_per_s:,.0f}", peak))
    if not report.latency:
        return []
    first = report.latency[0]
    threads = ""
    if first.device == "cpu":
        threads = ", 1 thread" if first.num_threads == 1 else f", {first.num_threads} threads"
    return [f"forward pass on {first.device}{threads}, float32", *_aligned(rows)]


def _corruptions(report: EvaluationReport) -> list[str]:
    if not report.corruptions:
        return []
    rows = corruption_rows(report.corruptions, report.top1.value)
    cells = [tuple(rows[0]), *(tuple(row.values()) for row in rows)]
    return ["top-1 % after corruption, by strength", *_aligned(cells)]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
