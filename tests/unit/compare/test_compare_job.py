"""A whole submission of a comparison, whose runs are trained in this process."""

import csv
import json
import shutil

import pytest
from safetensors.torch import save_file
from support.spec_contents import KD
from support.training_runs import InterruptedRunError, run_alone

from service.compare import job, progress
from service.compare.job import run_comparison
from service.compare.loading import parse_comparison
from service.models.build import build_model
from service.run.journal import JOURNAL_NAME, read_events
from service.spec.errors import BadInputError
from service.spec.loading import parse_spec


@pytest.fixture
def submit(make_compare_content, capsys):
    """A function that submits a comparison; returns its exit status and its output."""

    def submit(**fields):
        exit_status = run_comparison(parse_comparison(make_compare_content(**fields)))
        return exit_status, capsys.readouterr().out

    return submit


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "cmp"


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_all_variants_train_with_all_seeds_seed_by_seed(here, submit, folder):
    exit_status, output = submit()
    assert exit_status == 0
    assert here.started == ["base-seed-0", "kd-seed-0", "base-seed-1", "kd-seed-1"]
    assert not list(folder.glob("runs/*/checkpoint_*"))
    top1 = {(r["variant"], r["seed"]): float(r["last_top1"]) for r in rows(folder / "runs.csv")}
    results = {r["variant"]: r for r in rows(folder / "results.csv")}
    gains = [top1["kd", seed] - top1["base", seed] for seed in ("0", "1")]
    assert float(results["kd"]["difference"]) == pytest.approx(sum(gains) / 2)
    assert "variant" in output
    page, address = output.splitlines()[-2:]
    assert page == f"page: {folder / 'compare.html'}"
    assert address.startswith("comparison: ")
    assert "<html" in (folder / "compare.html").read_text()
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["num_runs"], status["num_finished"]) == ("finished", 4, 4)

    here.started = []
    assert submit()[0] == 0
    assert here.started == []


def test_comparison_killed_and_stopped_resumes_and_gives_the_same_table(here, submit, folder):
    here.kill_at = "kd-seed-0"
    with pytest.raises(InterruptedRunError):
        submit()
    assert list((folder / "runs" / "kd-seed-0").glob("checkpoint_*"))
    here.kill_at, here.stop_at, here.started = None, "base-seed-1", []
    exit_status, output = submit()
    assert exit_status == 3
    assert f"page: {folder / 'compare.html'}" in output.splitlines()
    assert json.loads((folder / "status.json").read_text())["state"] == "stopped"
    assert here.started == ["kd-seed-0", "base-seed-1"]
    events = read_events(folder / "runs" / "kd-seed-0" / JOURNAL_NAME)
    assert sum(event.kind == "start" for event in events) == 2
    here.stop_at, here.started = None, []
    assert submit()[0] == 0
    assert here.started == ["base-seed-1", "kd-seed-1"]
    resumed = rows(folder / "results.csv")
    assert submit(name="other")[0] == 0
    others = rows(folder.parent / "other" / "results.csv")
    for row in resumed + others:
        # They depend on clocks, and on what else this process has done.
        del row["images_per_s"], row["peak_memory_bytes"]
    assert resumed == others


def test_failed_run_is_left_out_and_named(here, submit, folder):
    here.failing = {"kd-seed-1"}
    exit_status, output = submit()
    assert exit_status == 1
    assert "kd: seed 1 failed: worker 0 was killed" in output
    assert rows(folder / "results.csv")[1]["seeds"] == "0"
    here.failing, here.started = set(), []
    assert submit()[0] == 0
    assert here.started == ["kd-seed-1"]


def test_files_are_written_while_runs_train(here, submit, monkeypatch):
    monkeypatch.setattr(progress, "OUTCOME_INTERVAL_S", 0.0)
    written = []
    monkeypatch.setattr(progress, "write_outcome", lambda outcome: written.append(outcome))
    here.failing = {"base-seed-1"}
    assert submit()[0] == 1
    states = [[record.state for record in outcome.records] for outcome in written]
    assert states == [
        ["finished", "waiting", "waiting", "waiting"],
        ["finished", "finished", "waiting", "waiting"],
        ["finished", "finished", "failed", "waiting"],
        ["finished", "finished", "failed", "finished"],
    ]


def test_only_what_is_new_is_trained(here, submit):
    assert submit()[0] == 0
    here.started = []
    variants = {"kd": {"losses": {"ce": {}, "kd": {"weight": 1}}}, "dtkd": {"losses": None}}
    assert submit(variants=variants, seeds=[1, 2])[0] == 0
    assert here.started == ["dtkd-seed-1", "base-seed-2", "kd-seed-2", "dtkd-seed-2"]


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"base": {"optimizer": {"learning_rate": 0.1}}}, "base.optimizer.learning_rate"),
        ({"variants": {"kd": {"losses": {"ce": {}, "kd": {"weight": 2}}}}}, "variants.kd"),
        ({"base_label": "labels"}, "base_label"),
    ],
)
def test_changed_comparison_is_refused_and_nothing_is_deleted(here, submit, folder, fields, where):
    assert submit()[0] == 0
    before = sorted(folder.rglob("*"))
    with pytest.raises(BadInputError) as caught:
        submit(**fields)
    (problem,) = caught.value.problems
    assert problem.where == where
    assert "another name" in problem.remedy
    assert sorted(folder.rglob("*")) == before


def test_changed_length_is_one_problem(here, make_compare_content):
    contents = [make_compare_content() for _ in range(2)]
    for content, num_epochs in zip(contents, (2, 9), strict=True):
        # The milestones are left out, and follow from it.
        content["base"]["schedule"] = {"num_epochs": num_epochs}
    first, longer = map(parse_comparison, contents)
    assert run_comparison(first) == 0
    with pytest.raises(BadInputError) as caught:
        run_comparison(longer)
    assert [problem.where for problem in caught.value.problems] == ["base.schedule.num_epochs"]


def test_damaged_result_is_trained_anew(here, submit, folder):
    assert submit()[0] == 0
    run_path = folder / "runs" / "kd-seed-0"
    (run_path / "result.json").write_text("{}")
    with pytest.raises(BadInputError) as caught:
        submit()
    (problem,) = caught.value.problems
    assert problem.where == "runs/kd-seed-0/result.json"
    assert (
        problem.remedy == f"remove the folder {run_path} and submit again: the run is trained anew"
    )
    shutil.rmtree(run_path)
    here.started = []
    assert submit()[0] == 0
    assert here.started == ["kd-seed-0"]


def test_files_of_weights_are_checked_before_a_cluster_is_looked_for(
    here, submit, tmp_path, monkeypatch
):
    def no_cluster():
        raise AssertionError("the files are checked first")

    monkeypatch.setattr(job, "check_address", no_cluster)
    path = tmp_path / "wide.safetensors"
    save_file({**build_model("cifar:resnet14", 4).state_dict()}, path)
    teacher = {"model": "cifar:resnet8", "weights": {"source": str(path)}}
    with pytest.raises(BadInputError, match="resnet8") as caught:
        submit(variants={"kd": {**KD, "teacher": teacher}})
    (problem,) = caught.value.problems
    assert problem.where == "variants.kd: teacher.weights.source"


def test_folder_of_another_run_is_refused(here, submit, folder, make_content):
    run_alone(parse_spec(make_content(name="cmp")))
    (folder / "spec.json").write_text("{}")
    with pytest.raises(BadInputError, match="cmp is that of another run; use another name"):
        submit()
    assert (folder / "spec.json").read_text() == "{}"


def test_other_weights_under_the_same_name_are_refused(here, submit, folder, teacher):
    assert submit()[0] == 0
    for name in ("base-seed-0", "kd-seed-1"):
        (folder / "runs" / name / "tags.json").write_text(json.dumps({"teacher_sha256": "0" * 64}))
    with pytest.raises(BadInputError) as caught:
        submit()
    (problem,) = caught.value.problems
    assert problem.where == "base.teacher.weights.source"
    assert "was started with 0000" in problem.wrong
