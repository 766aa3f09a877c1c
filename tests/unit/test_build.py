"""The driver's check of models and weights, and the weights that it fetches once."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from service import build
from service.build import build_job
from service.models.build import build_model
from service.run.folder import write_spec
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


def test_fetched_weights_are_stored_in_the_runs_folder(spec, fetches):
    built = build_job(spec)
    path = spec.run_path / "teacher_weights.safetensors"

    assert fetches == [URI]
    assert built.spec.teacher.weights.source == str(path)
    assert all(torch.equal(tensor, weights_of(0)[name]) for name, tensor in load_file(path).items())
    assert built.teacher_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_run_that_is_resumed_fetches_nothing(spec, fetches):
    first = build_job(spec)
    write_spec(spec)

    assert build_job(spec) == first
    assert fetches == [URI]


def test_weights_that_a_refused_job_stored_are_not_reused(spec, fetches):
    """Its folder belongs to no spec yet: the next job may have another teacher."""
    first = build_job(spec)

    assert build_job(spec).teacher_sha256 != first.teacher_sha256
    assert fetches == [URI, URI]


def test_local_weights_stay_where_they_are(make_content, teacher):
    spec = parse_spec(make_content(teacher=teacher))
    built = build_job(spec)

    assert built.spec == spec
    assert not spec.run_path.exists()


def test_images_that_a_model_cannot_take_are_refused(make_content, tmp_path):
    content = make_content(student={"model": "vit_b_16"})

    with pytest.raises(BadInputError, match=r"student\.model: vit_b_16 cannot take"):
        build_job(parse_spec(content))
