import json

import pytest

from service.run.status import StatusFile
from service.spec.errors import BadInputError
from service.spec.sections import Resources
from service.sweep.job import check_same_sweep
from service.sweep.loading import parse_sweep
from service.sweep.plan import format_plan
from service.sweep.progress import Progress, SweepStatus
from service.sweep.spec import SWEEP_NAME
from service.sweep.study import Search, TrialEnd

NODE = {"CPU": 8.0, "memory": 8e9}


@pytest.fixture
def make_nodes(monkeypatch):
    def make(*resources):
        nodes = [{"Alive": True, "Resources": each} for each in resources]
        monkeypatch.setattr(capacity.ray, "nodes", lambda: nodes)

    return make


@pytest.mark.parametrize(
    ("nodes", "wanted", "expected"),
    [
        ([NODE, NODE], None, 16),
        ([NODE, NODE], 5, 5),
        # Three processes of half a gigabyte on one node, one on the other.
        ([{"CPU": 8.0, "memory": 1.9e9}, {"CPU": 8.0, "memory": 0.9e9}], None, 4),
        ([NODE, {"CPU": 8.0}], None, 16),
    ],
)
def test_trials_at_a_time_are_those_with_room_for_all_they_need(
    make_nodes, nodes, wanted, expected
):
    make_nodes(*nodes)
    resources = Resources(num_workers=1, cpus_per_worker=1)

    assert capacity.plan_concurrency(resources, wanted) == expected


@pytest.mark.parametrize(
    ("nodes", "wanted", "field"),
    [
        ([{"CPU": 1.0, "memory": 8e9}], None, "resources"),
        ([NODE], 5, "concurrency"),
        ([{"CPU": 8.0, "memory": 1e8}], None, "concurrency"),
        ([{"CPU": 8.0, "memory": 6e8}], 2, "concurrency"),
    ],
)
def test_what_has_no_room_is_refused(make_nodes, nodes, wanted, field):
    make_nodes(*nodes)

    with pytest.raises(BadInputError) as error:
        capacity.plan_concurrency(Resources(num_workers=1, cpus_per_worker=2), wanted)
    assert [problem.where for problem in error.value.problems] == [field]


def test_plan_tells_the_epochs_of_all_trials(make_sweep_content):
    """Of 24 trials all reach epoch 3, a third epoch 9, a ninth epoch 27."""
    schedule = {"num_epochs": 27, "milestones": []}
    text = format_plan(parse_sweep(make_sweep_content(base={"schedule": schedule})))

    assert "648 epochs of training at most" in text
    assert f"about {24 * 3 + 8 * 6 + 24 / 9 * 18:.0f} " in text


def test_plan_lists_the_points_of_a_grid(make_sweep_content):
    space = {
        "method.base_temperature": {"log": [1, 4]},
        "method.alpha": {"linear": [0, 4], "points": 5},
    }
    text = format_plan(parse_sweep(make_sweep_content(space=space, algorithm={"kind": "grid"})))

    assert "method.base_temperature: one of 1, 2, 4" in text
    assert "method.alpha: one of 0, 1, 2, 3, 4" in text
    assert "15 trials" in text


def test_status_tells_how_far_a_sweep_is(make_sweep_content, tmp_path):
    sweep = parse_sweep(make_sweep_content(budget={"trials": 8}, scheduler={"kind": "none"}))
    sweep.sweep_path.mkdir(parents=True)
    search = Search(sweep, sweep.sweep_path)
    for score, state in ((0.4, "finished"), (0.6, "finished"), (0.9, "failed")):
        ticket = search.next()
        search.report(ticket.number, 9, score)
        search.end(ticket.number, TrialEnd(state, 1.0))
    search.next()
    file = StatusFile(tmp_path, SweepStatus(sweep.name, sweep.metric_name))
    Progress(sweep, search, file.status, show=lambda _: None)()
    file.close()

    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["num_trials"], status["num_ended"]) == (8, 3)
    assert (status["num_running"], status["num_failed"]) == (1, 1)
    assert (status["best_trial"], status["best_score"]) == (1, 0.6)
    assert status["eta_s"] == pytest.approx(status["seconds"] / 3 * 5)


def test_a_sweep_that_exists_may_only_get_another_budget_or_pace(make_sweep_content):
    sweep = parse_sweep(make_sweep_content(budget={"trials": 8}))
    sweep.sweep_path.mkdir(parents=True)
    (sweep.sweep_path / SWEEP_NAME).write_text(sweep.model_dump_json())
    check_same_sweep(parse_sweep(make_sweep_content(budget={"trials": 9}, concurrency=1)))

    changed = parse_sweep(make_sweep_content(base={"seed": 5}, metric="loss"))
    with pytest.raises(BadInputError) as error:
        check_same_sweep(changed)
    assert [problem.where for problem in error.value.problems] == ["base.seed", "metric"]
    assert str(error.value).startswith("sweep: 2 problems")
