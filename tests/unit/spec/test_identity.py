"""Which fields of a spec identify a run."""

import pytest

from service.spec.identity import fixed_differences
from service.spec.loading import parse_spec


@pytest.fixture
def specs(make_content, teacher):
    """Two specs, the second with changed sections."""

    def make(base=None, **sections):
        base = {"teacher": teacher, **(base or {})}
        return [parse_spec(make_content(**each)) for each in (base, {**base, **sections})]

    return make


@pytest.mark.parametrize(
    ("sections", "differing"),
    [
        ({"tracking": {"uri": "http://other:5000", "register_as": "r", "log_every_steps": 9}}, []),
        ({"tracking": {"journal_limit_bytes": 10_000, "experiment": "other"}}, []),
        ({"resources": {"max_failures": 9, "collective_timeout_s": 5}}, []),
        ({"resources": {"heartbeat_timeout_s": 5}}, []),
        ({"checkpoints": {"num_to_keep": 5, "every_minutes": 1, "every_steps": 3}}, []),
        ({"evaluation": {"batch_size": 7}}, []),
        ({"resources": {"num_workers": 1}}, ["resources.num_workers"]),
        ({"resources": {"cpus_per_worker": 2}}, ["resources.cpus_per_worker"]),
        ({"evaluation": {"every_epochs": 2}}, ["evaluation.every_epochs"]),
        ({"checkpoints": {"every_epochs": 2}}, ["checkpoints.every_epochs"]),
        ({"losses": {"kd": {"temperature": 2}}}, ["losses"]),
        ({"seed": 1, "tracking": {"experiment": "other"}}, ["seed"]),
        ({"augmentation": {"mixing": {"mixup_alpha": 0.1}}}, ["augmentation.mixing"]),
    ],
    ids=str,
)
def test_only_fields_that_change_no_weight_may_change(specs, sections, differing):
    old, new = specs(**sections)
    assert fixed_differences(old, new) == differing


def test_interval_between_changes_of_the_number_of_workers_may_change(make_content):
    sections = [{"num_workers": [1, 2], "resize_interval_s": seconds} for seconds in (5, 60)]
    old, new = (parse_spec(make_content(resources=each)) for each in sections)
    assert fixed_differences(old, new) == []


@pytest.mark.parametrize("sections", [{"tracking": {"experiment": "x"}}, {"seed": 1}], ids=str)
def test_hash_leaves_out_what_may_change(specs, sections):
    old, new = specs(**sections)
    assert (old.content_hash() == new.content_hash()) == (fixed_differences(old, new) == [])


def test_times_of_checkpoints_are_fixed_where_a_run_rolls_back_to_them(specs):
    training = {"on_nonfinite": "roll_back"}
    old, new = specs({"training": training}, checkpoints={"every_steps": 3})
    assert fixed_differences(old, new) == ["checkpoints.every_steps"]
