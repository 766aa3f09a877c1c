import json

import pytest
from safetensors.torch import save_file

from jobs.sweep import main
from service.models.build import build_model
from service.run.status import StatusFile
from service.spec.errors import EXIT_BAD_INPUT, EXIT_DONE, BadInputError
from service.sweep.loading import load_sweep, parse_sweep
from service.sweep.plan import format_plan
from service.sweep.progress import ProgressReporter, SweepStatus
from service.sweep.resuming import check_same_sweep
from service.sweep.spec import SWEEP_NAME
from service.sweep.study import Search, TrialEnd


def test_plan_counts_the_epochs_of_all_trials(make_sweep_content):
    """All of 24 trials reach epoch 3, a third of them epoch 9, and a ninth epoch 27."""
    schedule = {"num_epochs": 27, "milestones": []}
    content = make_sweep_content(base={"schedule": schedule}, scheduler={"min_epochs": 3})
    text = format_plan(parse_sweep(content))

    assert "648 epochs of training at most" in text
    assert f"about {24 * 3 + 8 * 6 + 24 / 9 * 18:.0f} " in text


def test_plan_lists_the_points_of_a_grid(make_sweep_content):
    space = {
        "losses.dtkd.base_temperature": {"log": [1, 4]},
        "losses.dtkd.weight": {"linear": [0, 4], "points": 5},
    }
    text = format_plan(parse_sweep(make_sweep_content(space=space, algorithm={"kind": "grid"})))

    assert "losses.dtkd.base_temperature: one of 1, 2, 4" in text
    assert "losses.dtkd.weight: one of 0, 1, 2, 3, 4" in text
    assert "15 trials" in text


def test_status_shows_the_progress_of_a_sweep(make_sweep_content, tmp_path):
    sweep = parse_sweep(make_sweep_content(budget={"trials": 8}, scheduler={"kind": "none"}))
    sweep.sweep_path.mkdir(parents=True)
    search = Search(sweep)
    for score, state in ((0.4, "finished"), (0.6, "finished"), (0.9, "failed")):
        suggestion = search.next()
        search.report(suggestion.number, 9, score)
        search.end(suggestion.number, TrialEnd(state, 1.0))
    search.next()
    file = StatusFile(tmp_path, SweepStatus(sweep.name, sweep.metric_name))
    ProgressReporter(sweep, search, file.status, show=lambda _: None)()
    file.close()

    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["num_trials"], status["num_ended"]) == (8, 3)
    assert (status["num_running"], status["num_failed"]) == (1, 1)
    assert (status["best_trial"], status["best_score"]) == (1, 0.6)
    assert status["eta_s"] == pytest.approx(status["seconds"] / 3 * 5)


def test_started_sweep_accepts_only_what_does_not_change_its_trials(make_sweep_content, tmp_path):
    sweep = parse_sweep(make_sweep_content(budget={"trials": 8}))
    sweep.sweep_path.mkdir(parents=True)
    (sweep.sweep_path / SWEEP_NAME).write_text(sweep.model_dump_json())
    path = tmp_path / "sweep.json"

    def check(**fields):
        path.write_text(json.dumps(make_sweep_content(**fields)))
        check_same_sweep(load_sweep(path))

    # Nothing was trained yet.
    check(base={"seed": 5})
    trial_path = sweep.sweep_path / "trials" / "trial-0000"
    (trial_path / "checkpoint_0000000004").mkdir(parents=True)
    (trial_path / "spec.json").write_text("{}")
    check(budget={"trials": 9}, concurrency=1)
    check(base={"tracking": {"experiment": "other"}, "resources": {"max_failures": 7}})

    with pytest.raises(BadInputError) as error:
        check(base={"seed": 5}, metric="loss")
    assert [problem.where for problem in error.value.problems] == ["base.seed", "metric"]
    assert str(error.value).startswith("sweep: 2 problems")


def test_plan_finds_weights_that_do_not_fit(make_sweep_content, tmp_path, capsys):
    content = make_sweep_content()
    weights = build_model("cifar:resnet20", 4).state_dict()
    del weights["conv1.weight"]
    save_file(weights, tmp_path / "teacher.safetensors")
    source = str(tmp_path / "teacher.safetensors")
    content["base"]["teacher"] = {"model": "cifar:resnet20", "weights": {"source": source}}
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(content))

    assert main([str(path), "--plan"]) == EXIT_BAD_INPUT
    assert "teacher.weights.source: " in capsys.readouterr().err


def test_plan_says_what_trials_save_by_sharing_logits(
    make_sweep_content, teacher, tmp_path, capsys
):
    base = {"teacher": {**teacher, "cache": {"epochs": 1}}}
    content = make_sweep_content(base, budget={"trials": 6})
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(content))
    assert main([str(path), "--plan"]) == EXIT_DONE
    output = capsys.readouterr().out
    # Without the 64 images that are held out.
    assert f"teacher.cache: logits of 1 epoch, {192 * 12 / 1000:.2f} kB, in " in output
    assert "it saves 53 of 54 passes of the teacher" in output
    assert "jobs/cache_teacher.py" in output
    content["space"] = {"augmentation.flip_probability": {"linear": [0, 1]}}
    path.write_text(json.dumps(content))
    assert main([str(path), "--plan"]) == EXIT_DONE
    output = capsys.readouterr().out
    assert "warning: space.augmentation.flip_probability: is a range" in output
    assert "it saves" not in output
