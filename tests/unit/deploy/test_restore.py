"""Restoring MLflow's databases: what is refused while MLflow runs, and that it runs afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import backup_jobs
import pytest
import restore
from support.built_overlays import documents_of, find

from service.spec.errors import EXIT_BAD_INPUT, EXIT_STOPPED, BadInputError

FOLDER = Path(restore.__file__).parent
DUMPS = FOLDER / "platform" / "scripts" / "dumps.sh"
NEWEST, OLDER = "20261126T021700Z", "20261125T021700Z"
DEPLOYMENT = json.dumps({"spec": {"replicas": 2}})
CRON_JOB = json.dumps(find(documents_of("cpu"), "CronJob", "postgres-backup"))
STOP = ["scale", "deployment", "mlflow", "--namespace", "dtkd", "--replicas=0"]
START = [*STOP[:-1], "--replicas=2"]


def _ended(name, condition):
    types = ("SuccessCriteriaMet", condition)
    status = {"conditions": [{"type": each, "status": "True"} for each in types]}
    return [f"get job {name} --output=json", json.dumps({"status": status}), 0]


def _answers(listed="Complete", restored="Complete", dumps=f"{OLDER}\n{NEWEST}\n"):
    return [
        ["get deployment mlflow", DEPLOYMENT, 0],
        ["get cronjob postgres-backup", CRON_JOB, 0],
        ["get pods", "", 0],
        _ended("postgres-dumps", listed),
        _ended("postgres-restore", restored),
        ["logs job/postgres-dumps", dumps, 0],
        ["logs job/postgres-restore", "restore: of this dump\n", 0],
    ]


@pytest.fixture
def mlflow(ready_cluster):
    ready_cluster.answers(*_answers())
    return ready_cluster


def _scaled(cluster):
    return [arguments for arguments in cluster.arguments if arguments[0] == "scale"]


def _variables(job):
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value") for entry in container["env"]}


@pytest.mark.parametrize(("arguments", "dump"), [([], NEWEST), ([OLDER], OLDER)])
def test_dump_is_restored_while_mlflow_is_stopped(mlflow, capsys, arguments, dump):
    restore.restore(arguments)
    jobs = [items[0] for verb, items in mlflow.sent if verb == "create"]
    assert [job["metadata"]["name"] for job in jobs] == ["postgres-dumps", "postgres-restore"]
    assert _variables(jobs[0])["ACTION"] == "dumps"
    assert _variables(jobs[1])["ACTION"] == "restore"
    assert _variables(jobs[1])["DUMP"] == dump
    assert _scaled(mlflow) == [STOP, START]
    # Listed, stopped, restored, deleted, started.
    verbs = [call[0] for call in mlflow.arguments if call[0] in ("create", "scale", "delete")]
    assert verbs == ["create", "delete", "scale", "create", "delete", "scale"]
    assert "restore: of this dump" in capsys.readouterr().out


def test_jobs_are_the_backups_with_another_action():
    cron_job = find(documents_of("cpu"), "CronJob", "postgres-backup")
    job = backup_jobs.backup_job(cron_job, "other", 60, ACTION="dumps", DUMP="d")
    variables = _variables(job)
    assert (variables["ACTION"], variables["DUMP"], variables["PGHOST"]) == (
        "dumps",
        "d",
        "postgres",
    )
    own = cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    made = job["spec"]["template"]["spec"]
    assert {k: v for k, v in made.items() if k != "containers"} == {
        k: v for k, v in own.items() if k != "containers"
    }
    # A failure is one at once, and not after further tries.
    assert (job["spec"]["backoffLimit"], job["spec"]["activeDeadlineSeconds"]) == (0, 60)
    config = next(d for d in documents_of("cpu") if "restore.sh" in d.get("data", {}))
    assert {"backup.sh", "dumps.sh", "restore.sh"} <= config["data"].keys()


@pytest.mark.parametrize(
    ("arguments", "answers", "objects", "expected"),
    [
        (
            ["20200101T000000Z"],
            _answers(),
            [],
            f"dump 20200101T000000Z: is not there; give one of {OLDER}, {NEWEST}",
        ),
        ([], _answers(dumps=""), [], "claim dtkd-backups: has no dump; run kubectl create job"),
        ([], _answers()[1:], [], "deployment mlflow: is not there; run deploy/kubernetes/apply.py"),
        ([], _answers()[:1], [], "cronjob postgres-backup: is not there; run deploy"),
        ([], _answers(), ["job/postgres-restore"], "Job postgres-restore: exists; wait for"),
        ([], [["--raw=/version", "refused", 1]], [], "cluster: does not answer: refused; choose"),
    ],
)
def test_what_cannot_be_restored_leaves_mlflow_running(
    cluster, arguments, answers, objects, expected
):
    cluster.has(*objects)
    cluster.answers(*answers)
    with pytest.raises(BadInputError) as caught:
        restore.restore(arguments)
    (problem,) = caught.value.problems
    assert str(problem).startswith(expected)
    assert _scaled(cluster) == []


def _script(*arguments, **variables):
    command = [sys.executable, FOLDER / "restore.py", *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.parametrize("name", ["no-such-dump", "2026", f"{NEWEST}/..", "--nonsense"])
def test_text_that_is_no_name_is_refused_without_the_cluster(mlflow, name):
    done = _script(name)
    assert done.returncode == EXIT_BAD_INPUT
    (line,) = done.stderr.splitlines()
    assert name in line
    assert mlflow.arguments == []
    assert _script("--help").returncode == 0
    assert mlflow.arguments == []


def test_restore_without_kubectl_is_one_line(tmp_path):
    # There is none beside this python either.
    (tmp_path / "python").symlink_to(sys.executable)
    paths = [*map(str, (FOLDER, *FOLDER.parents[1:2])), *filter(None, sys.path)]
    done = subprocess.run(
        [tmp_path / "python", FOLDER / "restore.py"],
        capture_output=True,
        text=True,
        env={"PATH": "/none", "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == EXIT_BAD_INPUT
    (line,) = done.stderr.splitlines()
    assert line.startswith("deploy: kubectl: there is no kubectl with kustomize 5 or newer; run")


@pytest.mark.parametrize("failing", ["listed", "restored"])
def test_failed_job_ends_at_once_and_mlflow_runs(ready_cluster, capsys, failing):
    ready_cluster.answers(*_answers(**{failing: "Failed"}))
    with pytest.raises(SystemExit) as caught:
        restore.restore([])
    assert f"failed: {'' if failing == 'listed' else NEWEST}" in caught.value.code
    assert _scaled(ready_cluster) == ([] if failing == "listed" else [STOP, START])
    assert [call for call in ready_cluster.arguments if call[0] == "delete"]
    assert capsys.readouterr().err in (f"{OLDER}\n{NEWEST}\n", "restore: of this dump\n")


def test_mlflow_starts_again_when_the_job_is_gone(mlflow):
    mlflow.answers(["get job postgres-restore --output=json", "", 0], *_answers())
    with pytest.raises(SystemExit, match="Job postgres-restore: failed"):
        restore.restore([])
    assert _scaled(mlflow) == [STOP, START]


def test_mlflow_that_does_not_stop_is_started_again(mlflow, monkeypatch):
    monkeypatch.setattr(restore, "STOP_TIMEOUT_S", 0)
    mlflow.answers(["get pods", "pod/mlflow-1", 0], *_answers())
    with pytest.raises(SystemExit, match="pod/mlflow-1: has not ended in 0 s, and nothing was"):
        restore.restore([])
    assert _scaled(mlflow) == [STOP, START]
    created = [items[0]["metadata"]["name"] for verb, items in mlflow.sent if verb == "create"]
    assert created == ["postgres-dumps"]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_stopped_restore_is_ended_before_mlflow_starts(mlflow, number):
    running = ["get job postgres-restore --output=json", json.dumps({"status": {}}), 0]
    mlflow.answers(running, *_answers())
    process = subprocess.Popen(
        [sys.executable, FOLDER / "restore.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline_s = time.monotonic() + 60
    while not any(set(running[0].split()) <= set(call) for call in mlflow.arguments):
        assert time.monotonic() < deadline_s
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (EXIT_STOPPED, b"")
    last = [call[:2] for call in mlflow.arguments][-2:]
    assert last == [["delete", "job/postgres-restore"], START[:2]]
    assert _scaled(mlflow) == [STOP, START]


def test_only_complete_dumps_are_listed(tmp_path):
    for name, files in {
        NEWEST: ("mlflow", "mlflow_auth"),
        OLDER: ("mlflow", "mlflow_auth"),
        "20261124T021700Z": ("mlflow",),
        f".partial-{NEWEST}": ("mlflow", "mlflow_auth"),
        "lost+found": (),
    }.items():
        (tmp_path / name).mkdir()
        for database in files:
            (tmp_path / name / f"{database}.dump").write_text("dump")
    (tmp_path / "20261123T021700Z").mkdir()
    for database in ("mlflow", "mlflow_auth"):
        (tmp_path / "20261123T021700Z" / f"{database}.dump").touch()
    listed = subprocess.run(["bash", DUMPS, tmp_path], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == [OLDER, NEWEST]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert subprocess.run(["bash", DUMPS, empty], capture_output=True, check=True).stdout == b""
