"""Finished runs that were not trained, and what is in folders before and after something ran."""

from safetensors.torch import save_file

from service.models.build import build_model
from service.run.folder import STUDENT_NAME, write_spec, write_tags
from service.run.journal import JOURNAL_NAME, Journal
from service.run.progress import Progress
from service.run.result import RunResult
from service.spec.loading import parse_spec

NUM_POINTS = 3


def write_finished_run(content):
    """The folder of a run with random weights and a journal; returns its spec."""
    spec = parse_spec(content)
    spec.run_path.mkdir(parents=True)
    write_spec(spec)
    write_tags(spec.run_path, {"spec_hash": spec.content_hash()})
    journal = Journal(spec.run_path / JOURNAL_NAME, limit_bytes=10**6)
    for step in range(1, 1 + NUM_POINTS):
        journal.append("evaluation", step, step, {"val/top1": step / 10})
    model = build_model(spec.student.model, spec.dataset.num_classes)
    save_file(model.state_dict(), spec.run_path / STUDENT_NAME)
    progress = Progress(step=NUM_POINTS, epoch=NUM_POINTS, last_top1=0.3, best_top1=0.3)
    RunResult(progress, spec.dataset.evaluated, 1.0, 0.0, time_ms=1000).write(spec.run_path)
    return spec


def snapshot(folder):
    """Content and time of every file below a folder, by path."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
