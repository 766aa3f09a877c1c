"""A model's weights: written as safetensors, read without executing pickled code."""

from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data_pipeline.files import sha256_of
from service.spec.errors import BadInputError, Problem
from service.spec.sections import Weights, is_file_source

StateDict = dict[str, Tensor]


def load_weights(model: nn.Module, name: str, weights: Weights, where: str) -> None:
    """Load ``weights`` into ``model``.

    ``name``: the model's name. ``where``: path of the weights in the spec, for error messages.

    Raises:
        BadInputError: the source cannot be read, has a different SHA-256 digest, or has other keys
            or shapes than the model.
    """
    if weights.source.startswith("torchvision:"):
        state = _torchvision_state(name, weights.source.removeprefix("torchvision:"), where)
    else:
        assert is_file_source(weights.source), "other sources are downloaded first"
        state = _file_state(Path(weights.source), weights.sha256, where)
    expected = model.state_dict()
    fit = _fit_by_order if weights.match == "order" else _fit_by_name
    model.load_state_dict(fit(expected, state, where))


def save_weights(weights: StateDict, path: Path) -> None:
    """Write a .safetensors file, with the permissions of any new file.

    Raises:
        OSError: the storage fails.
        SafetensorError: the writer of the format fails.
    """
    path.touch()
    mode = path.stat().st_mode
    # safetensors replaces the file by one that only its owner may read.
    save_file(weights, path)
    path.chmod(mode)


def read_state_dict(path: Path) -> StateDict:
    """The tensors in a .safetensors or .pth file, by name.

    Raises:
        ValueError: the file is damaged, or contains anything but tensors by name.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"is not a readable safetensors file ({error})") from error
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types; each means an unusable file
        raise ValueError("is not a plain state dict that weights_only=True can load") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError("contains something other than tensors by name")
    return {key.removeprefix("module."): tensor for key, tensor in content.items()}


def _file_state(path: Path, sha256: str | None, where: str) -> StateDict:
    if not path.is_file():
        _raise_problem(
            f"{where}.source", f"{path} does not exist", "give the path of a weights file"
        )
    if sha256 is not None and (actual := sha256_of(path)) != sha256:
        _raise_problem(
            f"{where}.sha256",
            f"{path} has digest {actual}",
            "use the file with the pinned digest, or pin this one",
        )
    try:
        return read_state_dict(path)
    except ValueError as error:
        _raise_problem(f"{where}.source", f"{path} {error}", "save a state dict as .safetensors")


def _torchvision_state(name: str, enum: str, where: str) -> StateDict:
    import torchvision.models

    enums = torchvision.models.get_model_weights(name)
    if enum not in enums.__members__:
        names = ", ".join(enums.__members__)
        _raise_problem(
            f"{where}.source", f"{name} has no weights {enum}", f"torchvision has {names}"
        )
    try:
        return dict(enums[enum].get_state_dict(progress=False, check_hash=True))
    except OSError as error:
        _raise_problem(
            f"{where}.source",
            f"{enums[enum].url} cannot be downloaded ({error})",
            "copy the file to the cluster and give its path",
        )


def _fit_by_name(expected: StateDict, state: StateDict, where: str) -> StateDict:
    missing, unknown = expected.keys() - state.keys(), state.keys() - expected.keys()
    # Old files lack BatchNorm's step counters, which this service does not use.
    missing = {key for key in missing if not key.endswith("num_batches_tracked")}
    if missing or unknown:
        _raise_problem(
            f"{where}.source",
            f"lacks {_some(missing)} and has unknown {_some(unknown)}",
            'use weights of this model, or set match to "order"',
        )
    _check_shapes([(key, key) for key in state], expected, state, where)
    return {key: state.get(key, expected[key]) for key in expected}


def _fit_by_order(expected: StateDict, state: StateDict, where: str) -> StateDict:
    """Match tensors by position: for the same architecture with other tensor names."""
    # BatchNorm's step counters, the only scalars, are absent in some implementations.
    targets = [key for key in expected if expected[key].ndim > 0]
    sources = [key for key in state if state[key].ndim > 0]
    if len(targets) != len(sources):
        _raise_problem(
            f"{where}.source",
            f"has {len(sources)} tensors, the model {len(targets)}",
            "matching by order needs the same network",
        )
    pairs = list(zip(targets, sources, strict=True))
    _check_shapes(pairs, expected, state, where)
    return {**expected, **{target: state[source] for target, source in pairs}}


def _check_shapes(
    pairs: list[tuple[str, str]], expected: StateDict, state: StateDict, where: str
) -> None:
    for target, source in pairs:
        if expected[target].shape != state[source].shape:
            _raise_problem(
                f"{where}.source",
                f"{source} is {list(state[source].shape)}, the model's {target} "
                f"{list(expected[target].shape)}",
                "use weights for this model and this number of classes",
            )


def _some(keys: set[str]) -> str:
    shown = sorted(keys)[:3]
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return (", ".join(shown) or "nothing") + more


def _raise_problem(where: str, wrong: str, remedy: str) -> NoReturn:
    raise BadInputError("spec", [Problem(where, wrong, remedy)])
