"""A trial whose run was aborted after its last evaluation has failed."""

import pytest

from service.run.control import RunAbortedError, abort_run
from service.run.journal import JOURNAL_NAME, Journal
from service.spec.loading import parse_spec
from service.trials import trainable


def test_evaluation_of_an_unusable_student_is_no_result(make_content, monkeypatch):
    spec = parse_spec(make_content())

    def train(spec):
        journal = Journal(spec.run_path / JOURNAL_NAME, limit_bytes=10**6)
        journal.append("evaluation", 8, spec.schedule.num_epochs, {"val/top1": 0.9})
        with pytest.raises(RunAbortedError):
            abort_run(spec.run_path, 0, "its logits are not finite", 1)

    monkeypatch.setattr(trainable, "run_training", train)
    run = trainable.TrialRun(spec)
    assert run.next_evaluation() == {"failure": "its logits are not finite", "done": True}
    assert not (spec.run_path / "result.json").exists()
