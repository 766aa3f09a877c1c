import math

import numpy as np
import pytest

from service.spec.errors import BadInputError
from service.sweep import study as study_module
from service.sweep.analysis import TrialRecord, best_record, fastest_front, importances
from service.sweep.loading import parse_sweep
from service.sweep.space import SearchSpace
from service.sweep.study import Search, TrialEnd

NUM_EPOCHS = 9


@pytest.fixture
def make_search(make_sweep_content):
    def make(**fields):
        sweep = parse_sweep(make_sweep_content(**fields))
        sweep.sweep_path.mkdir(parents=True, exist_ok=True)
        return Search(sweep)

    return make


def score(point, epoch):
    """A metric that rises with the epochs to a height that depends on the settings."""
    height = 0.9 - 0.1 * abs(math.log2(point["losses.dtkd.base_temperature"]) - 1)
    height -= 0.05 * abs(point["losses.dtkd.weight"] - 3)
    return height * (1 - 0.5**epoch)


def run_trial(search, suggestion, last_epoch=NUM_EPOCHS):
    """Run a trial; returns False if it was interrupted after ``last_epoch``."""
    for epoch in range(1, NUM_EPOCHS + 1):
        if search.report(suggestion.number, epoch, score(suggestion.point, epoch)):
            search.end(suggestion.number, TrialEnd("stopped", epoch))
            return True
        if epoch == last_epoch < NUM_EPOCHS:
            return False
    search.end(suggestion.number, TrialEnd("finished", NUM_EPOCHS))
    return True


def run_all(search):
    while (suggestion := search.next()) is not None:
        run_trial(search, suggestion)
    return search.records()


@pytest.mark.parametrize("kind", ["random", "tpe", "cmaes"])
def test_interrupted_search_suggests_the_same_trials(make_search, kind):
    """Interrupted in every third trial, and resumed by another Search."""
    algorithm = {"kind": kind} if kind == "random" else {"kind": kind, "startup_trials": 4}
    budget = {"trials": 16}
    uninterrupted = run_all(make_search(name="uninterrupted", algorithm=algorithm, budget=budget))
    fields = {"name": "interrupted", "algorithm": algorithm, "budget": budget}
    search, num_interrupted = make_search(**fields), 0
    while (suggestion := search.next()) is not None:
        if suggestion.number % 3 == 0:
            if run_trial(search, suggestion, last_epoch=1):
                continue
            search = make_search(**fields)
            num_interrupted += 1
            assert search.next() == suggestion
        run_trial(search, suggestion)

    assert num_interrupted > 0
    assert [r._replace(seconds=0) for r in search.records()] == [
        r._replace(seconds=0) for r in uninterrupted
    ]
    assert len(uninterrupted) == 16


def test_finished_search_suggests_nothing(make_search):
    run_all(make_search(budget={"trials": 3}))
    search = make_search(budget={"trials": 3})

    assert search.is_over
    assert search.next() is None
    assert len(search.records()) == 3


def test_search_with_more_budget_continues(make_search):
    first = run_all(make_search(budget={"trials": 3}))
    more = run_all(make_search(budget={"trials": 5}))

    assert more[:3] == first
    assert len(more) == 5


def test_unfinished_line_of_a_killed_process_is_removed(make_search):
    """Otherwise the next line would be appended to it, and the search could never be read again."""
    search = make_search(budget={"trials": 3})
    run_trial(search, search.next())
    path = search._sweep.sweep_path / study_module.STUDY_NAME
    with path.open("a") as file:
        file.write('{"op_code": 8, "trial')
    assert len(run_all(make_search(budget={"trials": 3}))) == 3
    assert len(make_search(budget={"trials": 3}).records()) == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"op_code":4', '"op_code":99'),
        ("FloatDistribution", "FloatDistributiom"),
        ('"state":"finished"', '"state":"ended"'),
        ('"seconds":9', '"seconds":"long"'),
        ('"curve":[[', '"curve":["a",['),
        ("\n", "\n\xff\n"),
        ("\n", "\n[]\n"),
    ],
)
def test_damaged_search_is_refused(make_search, old, new):
    search = make_search(budget={"trials": 2})
    run_all(search)
    path = search._sweep.sweep_path / study_module.STUDY_NAME
    text = path.read_text()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode("latin-1"))
    with pytest.raises(
        BadInputError, match=r"search\.log: is damaged: .*; restore the file, or use"
    ):
        make_search(budget={"trials": 2})


def test_seed_determines_the_trials(make_search):
    def points(name, seed):
        algorithm = {"kind": "random", "seed": seed}
        return [r.params for r in run_all(make_search(name=name, algorithm=algorithm))]

    first, again, other = points("a", 1), points("b", 1), points("c", 2)
    assert first == again
    # The base's own settings come first, whatever the seed.
    assert first[0] == other[0]
    assert all(a != b for a, b in zip(first[1:], other[1:], strict=True))


def test_own_settings_are_tried_first(make_search):
    suggestion = make_search().next()

    assert suggestion.point == {
        "losses.dtkd.base_temperature": 4.0,
        "losses.dtkd.weight": 3.0,
        "losses.kd.weight": 1.0,
    }


def test_interrupted_grid_tries_every_point_once(make_search):
    space = {
        "losses.dtkd.weight": {"choice": [1, 2]},
        "losses.kd.weight": {"linear": [0, 1], "points": 2},
    }
    fields = {"space": space, "algorithm": {"kind": "grid"}}
    search = make_search(**fields)
    first = search.next()
    search = make_search(**fields)
    points = [search.next().point for _ in range(4)]

    assert points[0] == first.point
    assert sorted(map(str, points)) == sorted(
        str({"losses.dtkd.weight": dtkd, "losses.kd.weight": kd})
        for dtkd in (1, 2)
        for kd in (0.0, 1.0)
    )
    assert search.next() is None


def test_asha_continues_the_best_third_of_the_trials_so_far(make_search):
    """Compared with the rule, calculated independently for sequential trials."""
    search = make_search(
        budget={"trials": 20}, algorithm={"kind": "random"}, scheduler={"min_epochs": 1}
    )
    records = run_all(search)
    seen = {1: [], 3: []}
    for record in records:
        expected_epochs = NUM_EPOCHS
        for rung in (1, 3):
            value = score(record.params, rung)
            seen[rung].append(value)
            cut = sorted(seen[rung], reverse=True)[max(1, len(seen[rung]) // 3) - 1]
            # On 64 held-out images.
            error = math.sqrt((value * (1 - value) + cut * (1 - cut)) / 64)
            if len(seen[rung]) >= 3 and value < cut - error:
                expected_epochs = rung
                break
        assert record.curve[-1][0] == expected_epochs
        assert record.state == ("finished" if expected_epochs == NUM_EPOCHS else "stopped")
    assert {record.curve[-1][0] for record in records} >= {3, 9}


def test_median_rule_stops_trials_below_the_median(make_search):
    scheduler = {"kind": "median", "min_epochs": 2, "startup_trials": 3}
    search = make_search(
        budget={"trials": 16}, algorithm={"kind": "random"}, scheduler=scheduler
    )  # fmt: skip
    records = run_all(search)
    for number, record in enumerate(records):
        before = [r for r in records[:number] if r.state == "finished"]
        expected_epochs = NUM_EPOCHS
        for epoch in range(2, NUM_EPOCHS):
            others = [dict(r.curve)[epoch] for r in before]
            if len(before) >= 3 and score(record.params, epoch) < np.median(others):
                expected_epochs = epoch
                break
        assert record.curve[-1][0] == expected_epochs
    assert "stopped" in {record.state for record in records}


def test_without_a_scheduler_every_trial_runs_to_its_end(make_search):
    records = run_all(make_search(scheduler={"kind": "none"}, budget={"trials": 6}))

    assert [record.curve[-1][0] for record in records] == [NUM_EPOCHS] * 6


def test_epochs_are_a_budget(make_search):
    search = make_search(scheduler={"kind": "none"}, budget={"trials": 100, "epochs": 20})
    records = run_all(search)

    # The third trial is stopped at its second epoch.
    assert [record.curve[-1][0] for record in records] == [9, 9, 2]
    assert [record.state for record in records] == ["finished", "finished", "stopped"]


def test_hours_are_a_budget_over_all_submissions(make_search, monkeypatch):
    clock = iter(range(0, 10**9, 60))
    monkeypatch.setattr(study_module.time, "monotonic", lambda: float(next(clock)))
    fields = {"scheduler": {"kind": "none"}, "budget": {"trials": 1000, "hours": 5}}
    search = make_search(**fields)
    run_trial(search, search.next())
    used_s = search.seconds
    assert used_s < 5 * 3600
    again = make_search(**fields)
    # The clock was read a few times after the time was stored.
    assert again.seconds >= used_s - 300
    assert len(run_all(again)) < 1000


def test_failed_trial_is_recorded_with_its_reason(make_search):
    search = make_search(budget={"trials": 2})
    suggestion = search.next()
    search.report(suggestion.number, 1, 0.5)
    search.end(suggestion.number, TrialEnd("failed", 12.0, 2, "no memory"))
    record = make_search(budget={"trials": 2}).records()[0]

    assert record == TrialRecord(
        0, "failed", suggestion.point, 0.5, ((1, 0.5),), 12.0, 2, "no memory"
    )


def test_epoch_that_is_reported_twice_counts_once(make_search):
    search = make_search()
    suggestion = search.next()
    search.report(suggestion.number, 1, 0.5)
    again = make_search()
    suggestion = again.next()
    for epoch, value in ((1, 0.5), (2, 0.6)):
        assert not again.report(suggestion.number, epoch, value)

    assert again.records()[0].curve == ((1, 0.5), (2, 0.6))


def test_time_is_a_second_objective(make_search):
    search = make_search(minimize_time=True, scheduler={"kind": "none"}, budget={"trials": 12})
    while (suggestion := search.next()) is not None:
        for epoch in (1, NUM_EPOCHS):
            assert not search.report(suggestion.number, epoch, score(suggestion.point, epoch))
        search.end(
            suggestion.number, TrialEnd("finished", seconds=suggestion.point["losses.dtkd.weight"])
        )
    records = make_search(
        minimize_time=True, scheduler={"kind": "none"}, budget={"trials": 12}
    ).records()
    front = fastest_front(records, maximizes=True)

    assert len(records) == 12
    assert all(
        (record in front)
        == (not any(r.seconds < record.seconds and r.score > record.score for r in records))
        for record in records
    )


def record(number, state, value, params=None, seconds=1.0):
    curve = () if value is None else ((NUM_EPOCHS, value),)
    return TrialRecord(number, state, params or {}, value, curve, seconds)


def test_best_trial_has_reached_its_last_epoch():
    records = [record(0, "finished", 0.5), record(1, "stopped", 0.9), record(2, "finished", 0.6)]

    assert best_record(records, maximizes=True).number == 2
    assert best_record(records, maximizes=False).number == 0
    assert best_record(records[1:2], maximizes=True) is None


def test_ties_go_to_the_fastest_trial_if_time_counts_and_else_to_the_first():
    records = [record(0, "finished", 0.5, seconds=3), record(1, "finished", 0.5, seconds=2)]

    assert best_record(records, maximizes=True, minimize_time=True).number == 1
    assert best_record(records, maximizes=True).number == 0


def test_importance_is_that_of_the_deciding_parameter(make_sweep_content):
    """Of two parameters, the metric depends on the first alone."""
    space = {"losses.dtkd.weight": {"linear": [0, 4]}, "losses.kd.weight": {"linear": [0, 2]}}
    sweep = parse_sweep(make_sweep_content(space=space))
    generator = np.random.default_rng(0)
    records = []
    for number in range(60):
        dtkd, kd = generator.uniform(0, 4), generator.uniform(0, 2)
        params = {"losses.dtkd.weight": dtkd, "losses.kd.weight": kd}
        records.append(record(number, "finished", -((dtkd - 2) ** 2), params))
    found = importances(records, SearchSpace(sweep.space), NUM_EPOCHS)

    assert found["losses.dtkd.weight"] > 0.9 > 0.1 > found["losses.kd.weight"]
    assert sum(found.values()) == pytest.approx(1)


def test_no_trials_give_no_importances(make_sweep_content):
    sweep = parse_sweep(make_sweep_content())

    assert importances([], SearchSpace(sweep.space), NUM_EPOCHS) == {}


def test_interrupted_trials_are_resumed_in_order_with_their_last_score(make_search):
    fields = {"scheduler": {"kind": "none"}, "budget": {"trials": 3}}
    search = make_search(**fields)
    first, second = search.next(), search.next()
    for epoch, value in ((1, 0.1), (2, 0.3), (3, 0.2)):
        search.report(first.number, epoch, value)
    search.stop()
    resumed = make_search(**fields)
    assert resumed.records()[0].score == 0.2
    assert resumed.records()[0].num_failures == 0
    assert [resumed.next() for _ in range(2)] == [first, second]
    assert resumed.next().number == 2
