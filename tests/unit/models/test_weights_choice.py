"""The network's tensors are found in the files that training programs write, in both formats."""

import argparse
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from service.models.build import build_model, build_with_weights
from service.models.tensors import read_tensors
from service.plan import check_weights_fit
from service.spec.errors import BadInputError
from service.spec.loading import parse_spec
from service.spec.sections import Weights
from service.spec.weights_file import read_weights_file
from service.spec.weights_metadata import weights_notes

MODEL = "cifar:tiny_cnn"


@pytest.fixture(scope="module")
def networks():
    """Two networks: that of the weights, and their average."""
    torch.manual_seed(0)
    return build_model(MODEL, 4), build_model(MODEL, 4)


@pytest.fixture(scope="module")
def raw(networks):
    return networks[0].state_dict()


@pytest.fixture(scope="module")
def average(networks):
    return networks[1].state_dict()


def under(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def flat(content, prefix=""):
    """Nested dictionaries as one, with dots in its keys: what safetensors can store."""
    tensors = {}
    for key, value in content.items():
        if isinstance(value, dict):
            tensors |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, torch.Tensor):
            tensors[f"{prefix}{key}"] = value.clone()
    return tensors


def save(content, folder, kind):
    """A file of one of the kinds: torch's two formats, and safetensors."""
    path = folder / {"zip": "weights.pth.tar", "legacy": "weights.bin"}.get(kind, "W.SAFETENSORS")
    if kind == "safetensors":
        save_file(flat(content), path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    return path


def load(path, **fields):
    return build_with_weights("teacher", MODEL, 4, Weights(source=str(path), **fields)).state_dict()


def same(state, expected):
    return all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def training_state(network):
    """What programs save beside weights: an optimizer's state and objects of other classes."""
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.zeros(2, 3, 16, 16)).sum().backward()
    optimizer.step()
    options = argparse.Namespace(lr=0.1, out=Path("runs"), best=np.float64(0.5))
    return {"optimizer": optimizer.state_dict(), "args": options, "epoch": 3, "history": [1, 2]}


CONTAINERS = {
    "plain": lambda raw, ema: raw,
    "module": lambda raw, ema: under("module.", raw),
    "compiled": lambda raw, ema: under("_orig_mod.module.", raw),
    "backbone": lambda raw, ema: under("backbone.", raw),
    "averaged": lambda raw, ema: {"n_averaged": torch.tensor(3), **under("module.", raw)},
    "container": lambda raw, ema: {"net": under("module._orig_mod.", raw)},
    "nested": lambda raw, ema: {"checkpoint": {"params": raw}},
    "timm": lambda raw, ema: {"state_dict": raw, "state_dict_ema": ema},
    "torchvision": lambda raw, ema: {"model_ema": under("module.", ema), "model": raw},
    "lightning": lambda raw, ema: {
        "state_dict": {**under("ema_model.", ema), **under("model.", raw)}
    },
    "flat": lambda raw, ema: {**under("ema.", ema), **raw},
    "callback": lambda raw, ema: {"state_dict": raw, "callbacks": {"EMA": {"ema_state_dict": ema}}},
}
EMA_KEYS = {
    "timm": "state_dict_ema",
    "torchvision": "model_ema",
    "lightning": "state_dict.ema_model",
    "flat": "ema",
    "callback": "callbacks",
}


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_weights_are_found_in_what_contains_them(container, kind, raw, average, networks, tmp_path):
    content = CONTAINERS[container](raw, average)
    if container in ("nested", "timm", "torchvision"):
        content = {**content, **training_state(build_model(MODEL, 4))}
    path = save(content, tmp_path, kind)
    assert same(load(path), raw)
    if container in EMA_KEYS:
        assert same(load(path, key=EMA_KEYS[container]), average)
        with pytest.raises(BadInputError, match=r"teacher\.weights\.key: is 'nothing', but"):
            load(path, key="nothing")


def test_choice_is_said_and_a_choice_that_is_none_is_refused(raw, average, make_content, tmp_path):
    path = save({"state_dict_ema": average, "state_dict": raw}, tmp_path, "zip")
    teacher = {"model": MODEL, "weights": {"source": str(path)}}
    notes = weights_notes(parse_spec(make_content(teacher=teacher)))
    lines = []
    build_with_weights("teacher", MODEL, 4, Weights(source=str(path)), lines.append)
    expected = "teacher weights: state_dict of the file, which has state_dict_ema too"
    assert notes == lines == [expected]

    torch.save({"best": raw, "last": average}, path)
    with pytest.raises(BadInputError, match="the file has best and last; set it to one of them"):
        load(path)
    with pytest.raises(BadInputError, match="the file has best and last; set it to one of them"):
        parse_spec(make_content(teacher=teacher))
    assert same(load(path, key="last"), average)


def test_tensors_are_those_that_torch_reads(tmp_path):
    """Views, shared storages, other types and shapes; torch.load is the reference."""
    base = torch.arange(24.0).view(2, 3, 4)
    content = {
        "transposed": base.transpose(0, 2),
        "part": base[1:, ::2],
        "expanded": torch.tensor(2.0).expand(3, 2),
        "parameter": nn.Parameter(base[0]),
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 3),
        **{str(dtype): base.to(dtype) for dtype in (torch.bfloat16, torch.half, torch.double)},
        "bool": base > 5,
        "complex": torch.complex(base, base),
    }
    for kind in ("zip", "legacy"):
        path = save(content, tmp_path, kind)
        expected = torch.load(path, weights_only=True)
        read = read_tensors(read_weights_file(path), {name: name for name in content})
        for name, tensor in read.items():
            assert tensor.dtype == expected[name].dtype
            assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_remedies_for_other_names_work(kind, raw, tmp_path, make_content):
    content = {name.replace("fc.", "head.last."): tensor for name, tensor in raw.items()}
    path = save(under("backbone.", content), tmp_path, kind)
    remedy = "set rename to the parts of names that differ"
    with pytest.raises(BadInputError, match=remedy) as caught:
        load(path)
    assert ('match to "order"' in str(caught.value)) == (kind != "safetensors")
    assert same(load(path, rename=[["head.last", "fc"]]), raw)
    assert same(load(path, rename=[["head.last", "fc"], ["backbone", ""]]), raw)
    with pytest.raises(BadInputError, match=r"rename: gives .* the same name"):
        load(path, rename=[["0", "1"]])
    teacher = {"model": MODEL, "weights": {"source": str(path), "match": "order"}}
    if kind == "safetensors":
        with pytest.raises(BadInputError, match=r"weights\.match: is .order.*keep the order"):
            parse_spec(make_content(teacher=teacher))
    else:
        parse_spec(make_content(teacher=teacher))
        assert same(load(path, match="order"), raw)


def test_order_chooses_among_containers_too(raw, average, tmp_path):
    numbered = [dict(enumerate(state.values())) for state in (average, raw)]
    path = save({"ema": numbered[0], "net": numbered[1]}, tmp_path, "zip")
    assert same(load(path, match="order"), raw)
    assert same(load(path, match="order", key="ema"), average)


def one_infinite(tensor):
    return torch.where(tensor == tensor.max(), torch.inf, tensor)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda t: t.to_sparse(), "fc.weight is sparse"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "fc.weight is quantized"),
        (lambda t: t.to(torch.complex64), "fc.weight is complex64"),
        (lambda t: t.to(torch.int8), "fc.weight is int8"),
        (lambda t: t.to(torch.float8_e4m3fn), "fc.weight is of a special type"),
        (lambda t: t.to("meta"), "fc.weight is without values"),
        (lambda t: t[0, 0], r"fc.weight is \[\]"),
        (lambda t: t.tolist(), "lacks fc.weight"),
        (one_infinite, "fc.weight has values that are not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_of_other_kinds_are_refused(change, wrong, raw, tmp_path):
    path = save({"model": {**raw, "fc.weight": change(raw["fc.weight"])}}, tmp_path, "zip")
    with pytest.raises(BadInputError, match=wrong) as caught:
        load(path)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.tensor(1.0), 3, {}, {"model": None}])
def test_content_without_names_is_refused(content, tmp_path):
    path = save(content, tmp_path, "zip")
    with pytest.raises(BadInputError, match=r"no tensors by name.*save model.state_dict\(\)"):
        load(path)


def test_pickled_models_are_refused_with_a_remedy_that_works(networks, raw, tmp_path):
    path = save({"model": networks[0]}, tmp_path, "zip")
    with pytest.raises(BadInputError, match=r"object of the class .*PlainCnn\); save model.state"):
        load(path)
    torch.save(torch.load(path, weights_only=False)["model"].state_dict(), path)
    assert same(load(path), raw)


def test_averaged_models_and_links(networks, raw, tmp_path):
    path = save(AveragedModel(networks[0]).state_dict(), tmp_path, "zip")
    (tmp_path / "link").symlink_to(path)
    assert same(load(tmp_path / "link"), raw)
    shutil.copy(path, tmp_path / "file without a suffix")
    assert same(load(tmp_path / "file without a suffix"), raw)


def test_values_too_large_for_the_network_are_refused(raw, tmp_path):
    """Finite as 64 bits, and not as the 32 that the network has."""
    state = {name: tensor.double() for name, tensor in raw.items()}
    state["features.0.weight"][0, 0, 0, 0] = 1e300
    path = save({"state_dict": state}, tmp_path, "zip")
    with pytest.raises(
        BadInputError, match=r"state_dict\.features\.0\.weight has values that are not finite"
    ):
        load(path)


@pytest.mark.parametrize("kind", ["zip", "safetensors"])
def test_what_is_not_used_beside_the_network_is_said(kind, raw, tmp_path):
    """A normalization is part of what the network expects, whatever contains it."""
    beside = {"norm.mean": torch.zeros(3), "norm.steps": torch.tensor(1)}
    path = save({**under("model.", raw), **beside}, tmp_path, kind)
    lines = []
    build_with_weights("teacher", MODEL, 4, Weights(source=str(path)), lines.append)
    assert lines == ["teacher weights: norm.mean of the file not used"]


def test_tensor_too_much_is_to_be_removed(raw, tmp_path):
    path = save({**raw, "more.weight": torch.zeros(4)}, tmp_path, "zip")
    with pytest.raises(BadInputError, match=rf"save the weights of {MODEL} without more\.weight"):
        load(path)


def test_names_that_are_all_other_ones_are_listed(tmp_path):
    """Where nothing is the network's, each tensor with a shape may be what was meant for it."""
    path = save({"stem.kernel": torch.zeros(3), "steps": torch.tensor(1)}, tmp_path, "zip")
    with pytest.raises(BadInputError, match=r"and has unknown stem\.kernel;"):
        load(path)


@pytest.mark.parametrize("kind", ["zip", "safetensors"])
def test_averages_alone_are_said(kind, average, tmp_path, make_content):
    path = save({"model_ema": average}, tmp_path, kind)
    weights = {"source": str(path), "key": "model_ema."}
    spec = parse_spec(make_content(teacher={"model": MODEL, "weights": weights}))
    assert weights_notes(spec) == ["teacher weights: model_ema of the file, an average"]


def test_plan_compares_names_and_shapes(raw, tmp_path, make_content):
    def lines_of(state):
        source = {"source": str(save(state, tmp_path, "safetensors"))}
        spec = parse_spec(make_content(teacher={"model": MODEL, "weights": source}))
        return check_weights_fit(spec)

    assert lines_of(under("net.", raw)) == []
    lacking = dict(list(raw.items())[2:])
    with pytest.raises(BadInputError, match=r"teacher\.weights\.source: .* lacks features\.0\."):
        lines_of(lacking)
    with pytest.raises(BadInputError, match=r"features\.0\.weight is \[8, 3, 3, 4\]"):
        lines_of({**raw, "features.0.weight": torch.zeros(8, 3, 3, 4)})
