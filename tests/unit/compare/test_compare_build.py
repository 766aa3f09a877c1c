"""Weights are built once for each pair of networks, and their digests are tags."""

import hashlib
from pathlib import Path

import pytest

from service.build import build_job
from service.compare import build
from service.compare.build import build_variants, check_models, weights_tags
from service.compare.loading import parse_comparison
from service.spec.errors import BadInputError


@pytest.fixture
def built_names(monkeypatch):
    """Names of the runs whose models were built."""
    names = []

    def build_and_record(spec):
        names.append(spec.name)
        return build_job(spec)

    monkeypatch.setattr(build, "build_job", build_and_record)
    return names


def test_each_pair_of_networks_is_built_once(make_compare_content, teacher, built_names):
    pairs = {"a": {"student.model": "cifar:tiny_cnn"}, "b": {"student.model": "cifar:small_cnn"}}
    variants = {
        "kd": {"losses": {"ce": {}, "kd": {}}},
        "dtkd": {"losses": None},
        "alone": {"teacher": None, "optimizer.momentum": 0.5},
    }
    loaded = parse_comparison(make_compare_content(pairs=pairs, variants=variants))
    built = build_variants(loaded, loaded.run_specs())
    assert built_names == ["a-base-seed-0", "a-alone-seed-0", "b-base-seed-0", "b-alone-seed-0"]

    digest = hashlib.sha256(Path(teacher["weights"]["source"]).read_bytes()).hexdigest()
    for variant, one in built.items():
        is_alone = variant.name == "alone"
        assert one.tags.get("teacher_sha256") == (None if is_alone else digest)
        assert (one.tags["variant"], one.tags["pair"]) == (variant.name, variant.pair)
        assert one.student.model == pairs[variant.pair]["student.model"]
    assert weights_tags(built) == {f"{pair}.teacher_sha256": digest for pair in pairs}


def test_models_of_all_variants_are_checked_before_anything_else(make_compare_content):
    variants = {"kd": {"losses.kd": {}}, "big": {"student.model": "alexnet"}}
    loaded = parse_comparison(make_compare_content(variants=variants))
    with pytest.raises(BadInputError, match="alexnet"):
        check_models(loaded)


def test_relative_paths_of_a_pair_are_absolute_in_its_runs(
    make_compare_content, teacher, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = Path(teacher["weights"]["source"])
    other = {"model": teacher["model"], "weights": {"source": path.name}}
    pairs = {
        "one": {"teacher.weights.source": path.name},
        "two": {"teacher.weights.source": path.name, "teacher.others": [other]},
    }
    loaded = parse_comparison(make_compare_content(pairs=pairs))
    for key, spec in loaded.run_specs().items():
        networks = spec.networks()
        assert len(networks) == (2 if key.variant.pair == "one" else 3)
        assert {n.weights.source for p, n in networks.items() if p != "student"} == {str(path)}
    built = build_variants(loaded, loaded.run_specs())
    assert sorted(weights_tags(built)) == [
        "one.teacher_sha256",
        "two.teacher_others_0_sha256",
        "two.teacher_sha256",
    ]
