"""The driver's check of models and weights, and the weights that it fetches once."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from service import build
from service.build import build_job
from service.models.build import build_model
from service.run.claim import check_inputs
from service.run.folder import write_spec, write_tags
from service.run.journal import JOURNAL_NAME, Journal
from service.spec.errors import BadInputError
from service.spec.loading import parse_spec

URI = "models:/teacher@champion"


def weights_of(seed):
    torch.manual_seed(seed)
    return build_model("cifar:resnet8", 4).state_dict()


@pytest.fixture
def fetches(monkeypatch, tmp_path):
    """The URIs that were fetched; each fetch returns other weights."""
    fetched = []

    def download(uri, folder, where):
        path = tmp_path / f"fetched{len(fetched)}.safetensors"
        save_file(weights_of(len(fetched)), path)
        fetched.append(uri)
        return path

    monkeypatch.setattr(build, "download_weights", download)
    return fetched


@pytest.fixture
def spec(make_content):
    """A job whose teacher comes from MLflow; its folder exists."""
    teacher = {"model": "cifar:resnet8", "weights": {"source": URI}}
    parsed = parse_spec(make_content(teacher=teacher))
    parsed.run_path.mkdir(parents=True)
    return parsed


def start(spec, built):
    """As a job does that makes its first step."""
    write_spec(spec)
    write_tags(spec.run_path, built.digests)
    Journal(spec.run_path / JOURNAL_NAME, 10**6).append("interval", 1, 0, {})


def test_fetched_weights_are_stored_under_their_digest(spec, fetches):
    built = build_job(spec)
    path = Path(built.spec.teacher.weights.source)

    assert fetches == [URI]
    assert path.parent.parent == spec.checkpoints.storage_path
    assert all(torch.equal(tensor, weights_of(0)[name]) for name, tensor in load_file(path).items())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert built.digests == {"teacher_sha256": digest}
    assert path.stem == digest


def test_run_that_is_resumed_fetches_nothing(spec, fetches):
    first = build_job(spec)
    start(spec, first)

    assert build_job(spec) == first
    assert fetches == [URI]


def test_run_that_made_no_step_fetches_again(spec, fetches):
    first = build_job(spec)
    write_spec(spec)
    write_tags(spec.run_path, first.digests)

    assert build_job(spec).digests != first.digests
    assert fetches == [URI, URI]


def test_run_whose_weights_are_gone_does_not_go_on_with_others(spec, fetches):
    first = build_job(spec)
    start(spec, first)
    Path(first.spec.teacher.weights.source).unlink()

    second = build_job(spec)
    assert fetches == [URI, URI]
    with pytest.raises(BadInputError) as caught:
        check_inputs(spec, second.digests)
    (problem,) = caught.value.problems
    assert problem.where == "teacher.weights.source"
    for built in (first, second):
        assert built.digests["teacher_sha256"] in problem.wrong


def test_unchanged_teacher_is_stored_once_for_all_runs(make_content, monkeypatch, tmp_path):
    path = tmp_path / "fetched.safetensors"
    save_file(weights_of(0), path)
    monkeypatch.setattr(build, "download_weights", lambda *_: path)
    teacher = {"model": "cifar:resnet8", "weights": {"source": URI}}
    built = [build_job(parse_spec(make_content(name=name, teacher=teacher))) for name in "ab"]

    assert built[0].spec.teacher == built[1].spec.teacher
    assert len(list(tmp_path.glob("runs/**/*.safetensors"))) == 1


def test_local_weights_stay_where_they_are(make_content, teacher):
    spec = parse_spec(make_content(teacher=teacher))
    built = build_job(spec)

    assert built.spec == spec
    assert not spec.run_path.exists()


def test_images_that_a_model_cannot_take_are_refused(make_content, tmp_path):
    content = make_content(student={"model": "vit_b_16"})

    with pytest.raises(BadInputError, match=r"student\.model: vit_b_16 cannot take"):
        build_job(parse_spec(content))
