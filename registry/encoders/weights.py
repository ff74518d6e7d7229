"""Weights: read from files that can hold nothing but tensors, fetched from timm's hub, drawn fresh, or shuffled."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from registry.encoders.architecture import Architecture
from registry.errors import CardError, HubUnreachableError, InputError
from registry.files import sha256_of_file

PICKLED = (".pt", ".pth")
#: how many names of a mismatch a message lists
LISTED = 6


def read_weights(path: Path, sha256: str = "") -> dict[str, Tensor]:
    """Tensors by name from a `.safetensors` file, or from a `.pt`/`.pth` file that holds tensors and nothing else.

    A state dict inside a dict under `state_dict` or `model` is taken out, and the prefix `module.` of a
    data-parallel wrapper is dropped.

    Args:
        path: the file.
        sha256: what the file must hash to; "" to accept any.

    Raises:
        InputError: missing, damaged, of another kind, altered, or holding objects other than tensors (code is never run).
    """
    if not path.is_file():
        raise InputError(f"There is no weights file `{path}`. Check the path in `params.yaml`.")
    if sha256 and (found := sha256_of_file(path)) != sha256:
        raise InputError(f"`{path.name}`: expected sha256 {sha256}, got {found}. The file is not the one the card describes.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in PICKLED:
        return _tensors(_read_pickled(path), path)
    raise InputError(f"`{path.name}`: expected weights as `.safetensors`, `.pt` or `.pth`, got `{path.suffix}`. Convert the file.")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return cast("dict[str, Tensor]", load_file(path))
    except SafetensorError as error:
        raise InputError(f"`{path.name}`: cannot be read as safetensors ({error}). The file is truncated or damaged.") from error


def _read_pickled(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"`{path.name}`: expected tensors alone; the file is damaged or holds Python objects, which could run code and are refused"
            f" ({reason[:160]}). Save the model's `state_dict()` as `.safetensors`."
        ) from error


def _tensors(value: object, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
    if not isinstance(value, Mapping) or not value:
        raise InputError(f"`{path.name}`: expected a state dict of tensors, got {type(value).__name__}. Save the model's `state_dict()`.")
    others = [str(key) for key, item in value.items() if not isinstance(item, Tensor)]
    if others:
        raise InputError(f"`{path.name}`: expected tensors, but {_some(others)} are something else. Save the model's `state_dict()`.")
    return {str(key).removeprefix("module."): item for key, item in value.items()}


def load_backbone(architecture: Architecture, channels: int, weights: Mapping[str, Tensor], source: str) -> nn.Module:
    """The backbone with these weights, without its classifier.

    Every tensor must find its place and every place its tensor: a state dict that holds a classifier is loaded into the
    model with that many classes, and the classifier is dropped afterwards.

    Args:
        architecture: what to build.
        channels: input channels.
        weights: tensors by name.
        source: what the weights are called in messages.

    Raises:
        InputError: names or shapes differ (both sides are named).
    """
    classifier = _classifier_name(architecture)
    classes = int(weights[f"{classifier}.weight"].shape[0]) if classifier and f"{classifier}.weight" in weights else 0
    model = architecture.build(channels, classes)
    _check_names(model, weights, f"`{source}`")
    model.load_state_dict(dict(weights), strict=True)
    if classes:
        model.reset_classifier(0)  # type: ignore[operator]
    return model.eval()


def _check_names(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    # files written before torch counted batches lack this counter, which inference does not read
    missing = [name for name in expected if name not in weights and not name.endswith("num_batches_tracked")]
    unknown = [name for name in weights if name not in expected]
    if missing or unknown:
        parts = ([f"lacks {_some(missing)}"] if missing else []) + ([f"holds {_some(unknown)}, which the model has not"] if unknown else [])
        raise InputError(f"{source} does not fit the architecture: it {' and '.join(parts)}. Correct `architecture` in the card.")
    shapes = [
        f"`{name}` (expected {expected[name]}, got {tuple(value.shape)})" for name, value in weights.items() if tuple(value.shape) != expected[name]
    ]
    if shapes:
        raise InputError(
            f"{source} does not fit the architecture: {'; '.join(shapes[:LISTED])}{_more(shapes)}."
            " If the first convolution differs in channels, use the channel strategy `each`."
        )


def _classifier_name(architecture: Architecture) -> str:
    if architecture.family != "timm":
        return ""
    from timm.models import get_pretrained_cfg

    configuration = get_pretrained_cfg(architecture.tag)
    name = configuration.classifier if configuration is not None else None
    return str(name[0] if isinstance(name, tuple) else name or "")


def hub_file(tag: str, timeout_s: float = 10.0) -> Path:
    """The weights of a timm model, from the local cache of its hub or from the hub itself.

    Args:
        tag: timm's name, such as `mobilenetv2_100.ra_in1k`.
        timeout_s: how long the hub may take to answer at all.

    Raises:
        CardError: timm names no hub weights for this model.
        HubUnreachableError: not in the cache and the hub does not answer or does not have it; says what to do.
    """
    import httpx
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError
    from timm.models import get_pretrained_cfg

    configuration = get_pretrained_cfg(tag)
    if configuration is None or not configuration.hf_hub_id:
        raise CardError(f"timm names no weights on its hub for `{tag}`. Give a file: `weights: file:<name>.safetensors`.")
    repository, name = configuration.hf_hub_id, configuration.hf_hub_filename or "model.safetensors"
    cached = try_to_load_from_cache(repository, name)
    if isinstance(cached, str):
        return Path(cached)
    advice = (
        f"Fetch `{name}` of `{repository}` where there is a network and name it as `weights: file:<path>`,"
        " or put the hub's cache folder here and set HF_HOME to it."
    )
    try:
        # one quick look first: the hub's own client retries for half a minute before it says that there is no network
        httpx.head(constants.ENDPOINT, timeout=timeout_s)
        return Path(hf_hub_download(repository, name))
    except (OSError, httpx.HTTPError, HfHubHTTPError) as error:
        raise HubUnreachableError(f"`hub:{tag}` cannot be fetched from {constants.ENDPOINT} ({type(error).__name__}). {advice}") from error


def fresh_backbone(architecture: Architecture, channels: int, seed: int) -> nn.Module:
    """The backbone as its authors initialise it, from `seed`; torch's global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return architecture.build(channels).eval()


def shuffle_weights(module: nn.Module, seed: int) -> None:
    """Permute every weight and statistic within its own tensor: the same values, no learned structure.

    BatchNorm's running means and variances are permuted over channels too, each tensor on its own; integers stay.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                order = torch.randperm(value.numel(), generator=generator)
                value.copy_(value.flatten()[order].view_as(value))


def _some(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:LISTED]) + _more(names)


def _more(names: list[str]) -> str:
    return f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
