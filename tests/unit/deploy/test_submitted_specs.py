"""Which specs and arguments submit.py refuses before it asks the cluster anything."""

import json

import pytest
from submit import submit
from support.submitting import many_jobs, refused

from service.compare.loading import parse_comparison
from service.spec.errors import BadInputError
from service.spec.loading import parse_spec
from service.sweep.loading import parse_sweep

NOT_MOUNTED = "is not in the pods; give a path below /data or /runs"
NO_WAY_OUT = "but pods of runs have no way out of the cluster; copy it to /data"
MLFLOW_TEACHER = {"model": "resnet34", "weights": {"source": "models:/teacher@best"}}
KD_WITHOUT_TEACHER = {"losses": {"ce": {}, "kd": {"weight": 1}}, "teacher": None}


@pytest.fixture
def refused_alike(ready_cluster, data_folder, tmp_path):
    """Checks that a spec is refused as where its files are; returns how."""

    def check(content, parse):
        with pytest.raises(BadInputError) as caught:
            parse(content)
        text = json.dumps(content)
        for here, there in (
            (data_folder, "/data"),
            (tmp_path / "runs", "/runs"),
            (tmp_path, "/data"),
        ):
            text = text.replace(str(here), there)
        path = tmp_path / "in-pods.json"
        path.write_text(text)
        lines = refused([path, "--overlay", "cpu"])
        assert lines == [str(problem) for problem in caught.value.problems]
        assert ready_cluster.arguments == []
        return lines

    return check


@pytest.mark.parametrize(
    ("sections", "fields"),
    [
        ({"student": {"model": "resnet999"}}, ["student.model"]),
        ({"resources": {"num_workers": [64, 8]}}, ["resources.num_workers"]),
        ({"resources": {"num_workers": 8}}, ["resources.num_workers"]),
        (
            {"training": {"global_batch_size": 65, "micro_batch_size": None}},
            ["training.global_batch_size"],
        ),
        ({"schedule": {"warmup_epochs": 2}}, ["schedule.warmup_epochs"]),
        ({"tracking": {"promote": {"alias": "best"}}}, ["tracking.promote"]),
        ({"tracking": {"register_as": "a/b"}}, ["tracking.register_as"]),
        ({"student": {"weights": {"source": "models:/"}}}, ["student.weights.source"]),
        ({"losses": {"ce": {}, "kd": {"weight": 1}}}, ["losses.kd"]),
        ({"evaluation": {"resize_size": 8}}, ["evaluation.crop_size"]),
        ({"teacher": {**MLFLOW_TEACHER, "classes": [1, 2, 3]}}, ["teacher.classes"]),
        ({"teacher": {**MLFLOW_TEACHER, "classes": [1, 2, 3, 1]}}, ["teacher.classes"]),
        (
            {"student": {"model": "resnet999"}, "schedule": {"warmup_epochs": 2}, "sed": 1},
            ["sed", "student.model", "schedule.warmup_epochs"],
        ),
    ],
)
def test_jobs_are_refused_as_where_their_files_are(refused_alike, make_content, sections, fields):
    lines = refused_alike(make_content(**sections), parse_spec)
    assert [line.partition(":")[0] for line in lines] == fields


@pytest.mark.parametrize(
    ("content", "start"),
    [
        ({"base": {"student": {"model": "resnet999"}}}, "base.student.model: "),
        ({"resources": {"num_workers": 8}}, "resources.num_workers: is 8, but a step has 4 "),
        ({"space": {"optimizer.kind": {"choice": ["sgd", "none"]}}}, "space: optimizer.kind: "),
        ({"space": {"seed": {"choice": [1, 2]}}}, "space.seed: cannot be searched"),
        ({"base": {"teacher": None}}, "base.teacher: is absent, but losses.dtkd"),
        ({"scheduler": {"min_epochs": 9}}, "scheduler.min_epochs: is 9 of 9 epochs"),
        ({"algorithm": {"kind": "bohb"}}, "algorithm.kind: is 'bohb'"),
    ],
)
def test_sweeps_are_refused_as_where_their_files_are(
    refused_alike, make_sweep_content, content, start
):
    lines = refused_alike(make_sweep_content(**content), parse_sweep)
    assert any(line.startswith(start) for line in lines)


@pytest.mark.parametrize(
    ("content", "start"),
    [
        ({"base": {"student": {"model": "resnet999"}}}, "base.student.model: "),
        ({"variants": {"v": {"student.model": "x"}}}, "variants.v: student.model: "),
        ({"variants": {"v": KD_WITHOUT_TEACHER}}, "variants.v: losses.kd: compares"),
        ({"variants": {"v": {"resources.num_workers": 99}}}, "variants.v.resources.num_workers: "),
        ({"variants": {"v": {"resources.gpu": True}}}, "variants.v.resources.gpu: cannot differ"),
        ({"variants": {"v": {}}}, "variants.v: is the same as base"),
        ({"resources": {"num_workers": 2}}, "resources.num_workers: is 2, but a step has 1 "),
        ({"seeds": [1]}, "seeds: has fewer than two"),
    ],
)
def test_comparisons_are_refused_as_where_their_files_are(
    refused_alike, make_compare_content, content, start
):
    (line,) = refused_alike(make_compare_content(**content), parse_comparison)
    assert line.startswith(start)


def test_pareto_sweeps_and_bases_that_promote_are_accepted(capsys, tmp_path, write_pod_spec):
    """What only the scripts' defaults make valid is valid here, too."""
    space = {"optimizer.momentum": {"choice": [0.8, 0.9]}}
    base = write_pod_spec("base.json", tracking={"promote": {"alias": "best"}})
    compared = many_jobs(tmp_path, base, variants={"v": {"optimizer.momentum": 0.8}})
    submit([str(compared), "--overlay", "cpu", "--dry-run"])
    sweep = {"held_out": {"num_images": 9}, "space": space, "minimize_time": True}
    path = many_jobs(tmp_path, write_pod_spec(), **sweep)
    submit([str(path), "--overlay", "cpu", "--dry-run"])
    assert capsys.readouterr().out.count("kind: RayJob") == 2


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"name": "First_run"}, "name: First_run is no DNS-1123 name of at most 47 characters"),
        ({"name": "x" * 48}, "is no DNS-1123 name of at most 47"),
        (
            {"resources": {"num_workers": 32, "cpus_per_worker": 5}},
            "resources.num_workers: is 32, and the overlay has room for 24",
        ),
        (
            {"resources": {"cpus_per_worker": 17}},
            "resources.cpus_per_worker: is 17, and a pod of the overlay has 16 cores",
        ),
        ({"resources": {"gpu": True}}, "resources.gpu: is true, and the overlay has no GPUs"),
        (
            {"checkpoints": {"storage_path": "/data/runs"}},
            "checkpoints.storage_path: /data/runs is not in the pods; give a path below /runs",
        ),
        (
            {"dataset": {"train": "/home/t.beton", "val": "/data/v.beton", "num_classes": 10}},
            f"dataset.train: /home/t.beton {NOT_MOUNTED}",
        ),
        (
            {"dataset": {"train": "t.beton", "val": "/data/v.beton", "num_classes": 10}},
            "dataset.train: t.beton is not in the pods",
        ),
        (
            {"dataset": {"train": "/data/t", "val": "s3://bucket/v.beton", "num_classes": 10}},
            f"dataset.val: is s3://bucket/v.beton, {NO_WAY_OUT}",
        ),
        (
            {"dataset": {"train": "/data/" + "t" * 256, "val": "/data/v", "num_classes": 10}},
            "has a name that is too long; give another path",
        ),
        (
            {"student": {"model": "resnet18", "weights": {"source": "/data/../etc/w.pth"}}},
            f"student.weights.source: /data/../etc/w.pth {NOT_MOUNTED}",
        ),
        (
            {"teacher": {"model": "resnet34", "weights": {"source": "torchvision:DEFAULT"}}},
            f"teacher.weights.source: is torchvision:DEFAULT, {NO_WAY_OUT}",
        ),
        ({"extra": 1}, "extra: "),
        ({"tracking": {"uri": "http://me:word@mlflow:5000"}}, "tracking.uri: contains a user"),
        ({"tracking": {"uri": "sqlite:////runs/m.db"}}, "report to a server; give http://mlflow:5"),
        (
            {"tracking": {"uri": "/runs/mlruns"}},
            "tracking.uri: is '/runs/mlruns', but runs in pods",
        ),
    ],
)
def test_what_pods_do_not_have_is_refused(ready_cluster, write_pod_spec, sections, expected):
    (line,) = refused([write_pod_spec(**sections), "--overlay", "cpu"])
    assert expected in line
    assert ready_cluster.arguments == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            {"variants": {"v": {"dataset.train": "/home/t.beton"}}},
            f"variants.v: dataset.train: /home/t.beton {NOT_MOUNTED}",
        ),
        (
            {
                "pairs": {
                    "p": {"student.weights": {"source": "/w"}},
                    "q": {"student.model": "vgg11"},
                }
            },
            f"pairs.p: student.weights.source: /w {NOT_MOUNTED}",
        ),
        (
            {
                "held_out": {"num_images": 9},
                "space": {"student.weights": {"choice": [None, {"source": "/w"}]}},
            },
            "space: student.weights.source: /w is not in the pods, where student.weights = ",
        ),
    ],
)
def test_what_pods_do_not_have_is_refused_wherever_it_is_set(
    ready_cluster, tmp_path, write_pod_spec, content, expected
):
    path = many_jobs(tmp_path, write_pod_spec("base.json"), **content)
    (line,) = refused([path, "--overlay", "cpu"])
    assert line.startswith(expected)
    assert ready_cluster.arguments == []


def test_all_problems_of_a_spec_are_named_at_once(write_pod_spec):
    path = write_pod_spec(
        name="First", student={"model": "x"}, checkpoints={"storage_path": "/home"}, extra=1
    )
    lines = refused([path, "--overlay", "cpu"])
    fields = [line.partition(":")[0] for line in lines]
    assert fields == ["name", "extra", "checkpoints.storage_path", "student.model"]


def test_too_long_specs_are_refused(ready_cluster, tmp_path, write_pod_spec):
    # Neither file is, but the base goes with the comparison.
    weights = {"source": "/data/w.pth", "rename": [["first", "second"]] * 30_000}
    base = write_pod_spec(student={"model": "resnet18", "weights": weights})
    variants = {"v": {"student.weights.rename": [["first", "third"]] * 30_000}}
    path = many_jobs(tmp_path, base, variants=variants)
    (line,) = refused([path, "--overlay", "cpu"])
    assert "bytes with its base, and a spec may have 1,000,000; remove fields" in line
    path.write_text("[" + " " * 1_000_000 + "]")
    (line,) = refused([path, "--overlay", "cpu"])
    assert line.startswith(f"file: {path} has more than 1,000,000 bytes; remove fields")
    assert ready_cluster.arguments == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--overlay", "tpu"], "--overlay: invalid choice: 'tpu' (choose from 'cpu', 'gpu', "),
        (["--overlay", "../overlays/gpu"], "--overlay: invalid choice"),
        (["--overlay", "cpu", "--queue", ""], "--queue: '' is no DNS label: give 1 to 63 "),
        (["--overlay", "cpu", "--queue", "NOT a label!!"], "--queue: NOT a label!! is no DNS"),
        (["--overlay", "cpu", "--queue", "x" * 64], "is no DNS label"),
        (["--overlay", "cpu", "--retries", "11"], "--retries: invalid choice"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    ready_cluster, capsys, write_pod_spec, options, expected
):
    with pytest.raises(SystemExit) as caught:
        submit([str(write_pod_spec()), *options])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert ready_cluster.arguments == []


def test_misplaced_options_and_names_are_refused(write_pod_spec):
    path = write_pod_spec()
    (line,) = refused([path, "--overlay", "cpu", "--confirm", "3"])
    assert line.startswith("--confirm: goes with a sweep")
    (line,) = refused([path, "--overlay", "cpu", "--name", ""])
    assert line.startswith("--name: ")
