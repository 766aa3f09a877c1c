"""What is recorded of an evaluation, and that a teacher's is computed once."""

import numpy as np
import torch
from support.training_runs import CPU, run_alone

from data_pipeline.batches import Batch
from service.run.folder import write_tags
from service.run.journal import JOURNAL_NAME, read_events
from service.run.predictions import INVALID, TEACHER_PREDICTIONS_NAME, TIED, read_predictions
from service.spec.loading import parse_spec
from service.training.distributed import World
from service.training.evaluation import evaluate, recorded_accuracy
from service.training.prediction_recorder import PredictionRecorder
from service.training.teacher_predictions import FOLDER_NAME

ALONE = World(0, 1, CPU, 1)
NAN = float("nan")


def test_recorded_values_are_those_of_the_logits_in_float64():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(40, 9)).astype(np.float32)
    logits[3, :2] = 9.0
    logits[7, 2] = NAN
    labels, samples = generator.integers(0, 9, 40), generator.permutation(40)
    recorder = PredictionRecorder()
    batches = [
        Batch(torch.zeros(20, 2, 2, 3), torch.tensor(labels[part]), samples[part])
        for part in (slice(0, 20), slice(20, 40))
    ]
    given = iter(np.split(logits, 2))
    accuracy = evaluate(lambda _: torch.tensor(next(given)), batches, ALONE, recorder)
    found = recorder.gathered(ALONE, 60)

    assert found.samples.tolist() == list(range(40))
    place = np.argsort(samples)
    assert found.labels.tolist() == labels[place].tolist()
    wide = logits.astype(np.float64)[place]
    shares = np.exp(wide) / np.exp(wide).sum(axis=1, keepdims=True)
    tied, invalid = samples[3], samples[7]
    assert found.predicted[tied] == TIED
    assert (found.predicted[invalid], found.confidences[invalid]) == (INVALID, 0.0)
    others = [i for i in range(40) if i not in (tied, invalid)]
    assert found.predicted[others].tolist() == wide.argmax(axis=1)[others].tolist()
    np.testing.assert_allclose(found.confidences[others], shares.max(axis=1)[others], rtol=1e-5)
    losses = -np.log(shares[range(40), labels[place]])
    np.testing.assert_allclose(found.losses[others], losses[others], rtol=1e-5)
    again = recorded_accuracy(found)
    assert (again.top1, again.top5, again.num_nonfinite) == (accuracy.top1, accuracy.top5, 1)


def test_second_run_with_the_same_teacher_does_not_evaluate_it(make_content, teacher, monkeypatch):
    gathered, num_recorded = PredictionRecorder.gathered, []

    def gather_and_count(recorder, *arguments):
        num_recorded[-1] += 1
        return gathered(recorder, *arguments)

    monkeypatch.setattr(PredictionRecorder, "gathered", gather_and_count)
    # The file of val is another than the tag says.
    monkeypatch.setattr("service.training.data.read_tags", lambda _: {})
    specs = []
    for seed, digest in enumerate("aab"):
        spec = parse_spec(make_content(name=f"run{seed}", teacher=teacher, seed=seed))
        spec.run_path.mkdir(parents=True)
        write_tags(spec.run_path, {"teacher_sha256": digest, "dataset_val_fingerprint": "c"})
        num_recorded.append(0)
        run_alone(spec)
        specs.append(spec)
    # The teacher's, where no run has evaluated it, and the student's after each of two epochs.
    assert num_recorded == [3, 2, 3]
    stored = [read_predictions(spec.run_path / TEACHER_PREDICTIONS_NAME) for spec in specs]
    assert stored[0].confidences.tolist() == stored[1].confidences.tolist()
    events = [
        next(e.values for e in read_events(spec.run_path / JOURNAL_NAME) if e.kind == "teacher")
        for spec in specs
    ]
    assert events[0] == events[1]
    assert len([*(specs[0].checkpoints.storage_path / FOLDER_NAME).iterdir()]) == 2
