"""Training without labels learns what it would with them, from losses that need none."""

import pytest
import torch
from support.spec_contents import NUM_CLASSES, SIZE
from support.training_runs import final, loss_series, run_alone

from data_pipeline.beton import open_beton
from data_pipeline.encode import encoded
from data_pipeline.writer import BetonWriter
from service.run.journal import JOURNAL_NAME, read_events
from service.spec.loading import parse_spec

LOSSES = {"dtkd": {}, "kd": {"weight": 1.0}}


@pytest.fixture
def relabeled(data_folder, tmp_path):
    """The images of train with labels that are no classes of the spec."""
    file = open_beton(data_folder / "train.beton")
    path = tmp_path / "relabeled.beton"
    with BetonWriter(path, file.num_samples) as writer:
        content = file.path.read_bytes()
        for index, row in enumerate(file.storage(range(file.num_samples)).tolist()):
            _, _, _, start, num_bytes = row
            data = content[start : start + num_bytes]
            writer.append(encoded(1, SIZE, SIZE, data), NUM_CLASSES + index)
    return str(path)


@pytest.mark.parametrize("mixing", [None, {"mixup_alpha": 1.0, "cutmix_alpha": 1.0}])
def test_the_labels_of_the_file_change_nothing(make_content, teacher, relabeled, mixing):
    sections = {"teacher": teacher, "resources": {"num_workers": 1}}
    sections["augmentation"] = {"mixing": mixing}
    labeled = parse_spec(make_content(name="labeled", losses=LOSSES, **sections))
    dataset = {"unlabeled": True, "train": relabeled}
    unlabeled = parse_spec(make_content(name="unlabeled", dataset=dataset, **sections))
    for spec in (labeled, unlabeled):
        run_alone(spec)
    (expected, progress), (found, other_progress) = final(labeled), final(unlabeled)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert progress["last_top1"] == other_progress["last_top1"]
    assert loss_series(unlabeled) == loss_series(labeled)
    interval = next(
        e for e in read_events(unlabeled.run_path / JOURNAL_NAME) if e.kind == "interval"
    )
    assert "train/agreement" in interval.values
    assert "train/ce" not in interval.values
