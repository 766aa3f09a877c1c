"""Trials and the teacher's stored logits: what is shared, and which weights a trial's are of."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from data_pipeline.files import sha256_of
from service.models.build import build_model
from service.run.folder import TRIALS_NAME, write_tags
from service.sweep.cached_runs import advice_lines, cached_runs, unshared_ranges
from service.sweep.loading import load_sweep, parse_sweep
from service.sweep.study import Search
from service.sweep.trials import SearchTrials, trial_spec
from service.teacher_cache.demand import shared_logits
from service.teacher_cache.key import weights_digests

ONE_EPOCH = {"epochs": 1}


@pytest.fixture
def load(make_sweep_content, teacher, tmp_path):
    """A function that checks a sweep of a space, whose base has a teacher.cache."""

    def load(space, cache=ONE_EPOCH, **fields):
        section = {**teacher, "cache": cache}
        content = make_sweep_content({"teacher": section}, space=space, **fields)
        (tmp_path / "sweep.json").write_text(json.dumps(content))
        sweep, base = load_sweep(tmp_path / "sweep.json")
        return sweep, base._replace(spec=sweep.as_job())

    return load


def test_trials_are_expected_equally_often_of_all_images_that_they_may_have(load):
    space = {
        "augmentation.flip_probability": {"choice": [0.1, 0.9]},
        "losses.kd.weight": {"choice": [0, 1, 2]},
        "losses.dtkd.weight": {"choice": [0, 1]},
    }
    runs = cached_runs(*load(space, budget={"trials": 20}))
    specs = [each.job.spec for each in runs]
    assert [spec.augmentation.flip_probability for spec in specs] == [0.1, 0.9]
    assert [each.num_runs for each in runs] == [10.0] * 2
    # Their first combinations, without both losses, would need no teacher.
    assert all(spec.teacher_cache is not None for spec in specs)
    assert [list(part.epochs) for part in shared_logits(each.job for each in runs)] == [[0], [0]]


@pytest.mark.parametrize(
    ("parameter", "is_unshared"),
    [
        ({"augmentation.flip_probability": {"linear": [0, 1]}}, True),
        ({"augmentation.flip_probability": {"linear": [0, 1], "step": 1}}, False),
        ({"augmentation.flip_probability": {"choice": [0.1, 0.9]}}, False),
        ({"augmentation.padding": {"linear": [0, 4]}}, False),
        ({"optimizer.learning_rate": {"log": [0.01, 1]}}, False),
        ({"losses.kd.weight": {"linear": [0, 4]}}, False),
    ],
    ids=str,
)
def test_ranges_on_which_logits_depend_are_found(load, parameter, is_unshared):
    found = list(unshared_ranges(*load(parameter)))
    assert [problem.where for problem in found] == [f"space.{p}" for p in parameter if is_unshared]


def test_advice_before_the_trials_start(load):
    weight = {"losses.kd.weight": {"linear": [0, 4]}}
    (advice,) = advice_lines(*load(weight))
    assert "jobs/cache_teacher.py" in advice
    assert advice_lines(*load(weight, concurrency=1)) == []
    assert advice_lines(*load({"optimizer.nesterov": {"choice": [True]}}, cache=None)) == []
    (warning,) = advice_lines(*load({"augmentation.flip_probability": {"linear": [0, 1]}}))
    assert warning.startswith("warning: space.augmentation.flip_probability: is a range")


def save_other_teacher(path):
    torch.manual_seed(1)
    save_file(build_model("cifar:resnet8", 4).state_dict(), path)
    return str(path)


def test_trials_that_ran_say_nothing_of_the_weights_of_other_points(load, teacher, tmp_path):
    """Their numbers are those of other points: the second teacher's folder has the first's tag."""
    first, second = teacher["weights"]["source"], save_other_teacher(tmp_path / "other.safetensors")
    sweep, base = load({"teacher.weights.source": {"choice": [first, second]}})

    def digests():
        parts = shared_logits(each.job for each in cached_runs(sweep, base))
        return [part.key["weights"]["teacher"] for part in parts]

    expected = [sha256_of(Path(source)) for source in (first, second)]
    assert digests() == expected
    folder = sweep.sweep_path / TRIALS_NAME / "trial-0001"
    folder.mkdir(parents=True)
    write_tags(folder, {"teacher_sha256": expected[0]})
    assert digests() == expected


class Trackers:
    """Collects the tags that trials get."""

    def __init__(self):
        self.tags = []

    def start(self, spec, tags):
        """Note them."""
        self.tags.append((spec.teacher.weights.source, dict(tags)))


def test_a_trial_with_another_teacher_has_the_digest_of_its_weights(
    make_sweep_content, teacher, tmp_path
):
    """Else its logits would have the key of those of the base's teacher."""
    other = save_other_teacher(tmp_path / "other.safetensors")
    copy = tmp_path / "copy.safetensors"
    shutil.copy(other, copy)
    sources = [teacher["weights"]["source"], other, str(copy)]
    space = {"teacher.weights.source": {"choice": sources}}
    sweep = parse_sweep(make_sweep_content(space=space, algorithm={"kind": "grid"}))
    sweep.sweep_path.mkdir(parents=True)
    trackers = Trackers()
    trials = SearchTrials(sweep, sweep.base, Search(sweep), trackers, lambda: None)
    numbers = [trials.next()[0] for _ in sources]
    trials.close()
    assert numbers == [0, 1, 2]
    digests = {}
    for number, source in enumerate(sources):
        spec = trial_spec(sweep, sweep.base, number, {"teacher.weights.source": source})
        digests[source] = weights_digests(spec)["teacher"]
    assert digests[sources[1]] == digests[sources[2]] != digests[sources[0]]
    assert trackers.tags == [
        (sources[0], {"trial": "0"}),
        (sources[1], {"trial": "1", "teacher_sha256": digests[sources[1]]}),
        (sources[2], {"trial": "2", "teacher_sha256": digests[sources[1]]}),
    ]
