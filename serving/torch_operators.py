"""What ONNX operators compute, in torch: those that exported encoders and controls consist of, inference only.

One function for each operator: its attributes, then its inputs (None where an optional one is left out), to its output or outputs. Integers are
shapes, axes and places: they stay on the CPU, whatever the images are on. What an operator could do and no exported network asks for raises
NotImplementedError, so that such a file is refused and not computed wrongly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

Attributes = Mapping[str, Any]
Operator = Callable[..., Tensor | tuple[Tensor, ...]]

#: ONNX's numbers of element types
DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}


def _elementwise(function: Callable[..., Tensor]) -> Operator:
    def operator(_attributes: Attributes, *inputs: Tensor) -> Tensor:
        return function(*inputs)

    return operator


def _ints(values: Tensor) -> list[int]:
    return [int(value) for value in values.flatten().tolist()]


def _only(attributes: Attributes, **expected: Any) -> None:
    """Refuse attributes of other values than those that are computed here."""
    for name, value in expected.items():
        if attributes.get(name, value) != value:
            raise NotImplementedError(f"`{name}` = {attributes[name]}")


def _divide(_attributes: Attributes, a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


def _clip(_attributes: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def _cast(attributes: Attributes, x: Tensor) -> Tensor:
    return x.to(DTYPES[attributes["to"]])


def _gelu(attributes: Attributes, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=attributes.get("approximate", b"none").decode())


def _leaky_relu(attributes: Attributes, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, attributes.get("alpha", 0.01))


def _elu(attributes: Attributes, x: Tensor) -> Tensor:
    return functional.elu(x, attributes.get("alpha", 1.0))


def _hard_sigmoid(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.clamp(x * attributes.get("alpha", 0.2) + attributes.get("beta", 0.5), 0, 1)


def _softmax(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.softmax(x, attributes.get("axis", -1))


# ------------------------------------------------------------------------------------------- layers


def _padding(attributes: Attributes, dims: int) -> tuple[list[int], list[int]]:
    _only(attributes, auto_pad=b"NOTSET")
    pads = list(attributes.get("pads", [0] * 2 * dims))
    return pads[:dims], pads[dims:]


def _both_sides(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """In the order of `functional.pad`: the last axis first."""
    return [pad for pair in zip(reversed(before), reversed(after), strict=True) for pad in pair]


def _conv(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    dims = weight.ndim - 2
    before, after = _padding(attributes, dims)
    if before != after:
        x, before = functional.pad(x, _both_sides(before, after)), [0] * dims
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[dims]
    ones = [1] * dims
    return convolve(x, weight, bias, attributes.get("strides", ones), before, attributes.get("dilations", ones), attributes.get("group", 1))


def _pooling(attributes: Attributes) -> tuple[list[int], list[int], list[int], list[int]]:
    kernel: list[int] = attributes["kernel_shape"]
    if len(kernel) != 2:
        raise NotImplementedError(f"`kernel_shape` = {kernel}")
    # ONNX steps by 1 where nothing is said, torch by the kernel
    return kernel, attributes.get("strides", [1, 1]), *_padding(attributes, 2)


def _average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    _only(attributes, dilations=[1, 1])
    kernel, strides, before, after = _pooling(attributes)
    if before != after:
        raise NotImplementedError(f"`pads` = {attributes['pads']}")
    return functional.avg_pool2d(x, kernel, strides, before, bool(attributes.get("ceil_mode", 0)), bool(attributes.get("count_include_pad", 0)))


def _max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    _only(attributes, storage_order=0)
    kernel, strides, before, after = _pooling(attributes)
    if before != after:
        raise NotImplementedError(f"`pads` = {attributes['pads']}")
    return functional.max_pool2d(x, kernel, strides, before, attributes.get("dilations", [1, 1]), bool(attributes.get("ceil_mode", 0)))


def _global_average_pool(_attributes: Attributes, x: Tensor) -> Tensor:
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


def _gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    product: Tensor = (a.T if attributes.get("transA", 0) else a) @ (b.T if attributes.get("transB", 0) else b)
    product = product * float(attributes.get("alpha", 1.0))
    return product if c is None else product + c * float(attributes.get("beta", 1.0))


def _einsum(attributes: Attributes, *inputs: Tensor) -> Tensor:
    product: Tensor = torch.einsum(attributes["equation"].decode(), *inputs)
    return product


def _batch_norm(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    _only(attributes, training_mode=0)
    return functional.batch_norm(x, mean, variance, scale, bias, eps=attributes.get("epsilon", 1e-5))


def _layer_norm(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    sides = list(x.shape[attributes.get("axis", -1) :])
    return functional.layer_norm(x, sides, scale, bias, attributes.get("epsilon", 1e-5))


def _instance_norm(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    normalised: Tensor = functional.instance_norm(x, weight=scale, bias=bias, eps=attributes.get("epsilon", 1e-5))
    return normalised


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def operator(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        over = _ints(axes) if axes is not None else []
        if not over and attributes.get("noop_with_empty_axes", 0):
            return x
        return function(x, over or list(range(x.ndim)), bool(attributes.get("keepdims", 1)))

    return operator


# ------------------------------------------------------------------------------------------- shapes


def _shape(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[attributes.get("start", 0) : attributes.get("end")], dtype=torch.int64)


def _reshape(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sides = _ints(shape)
    if not attributes.get("allowzero", 0):
        sides = [x.shape[i] if side == 0 else side for i, side in enumerate(sides)]
    return x.reshape(sides)


def _flatten(attributes: Attributes, x: Tensor) -> Tensor:
    axis = attributes.get("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _transpose(attributes: Attributes, x: Tensor) -> Tensor:
    return x.permute(attributes.get("perm", list(reversed(range(x.ndim)))))


def _squeeze(_attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(_ints(axes))


def _unsqueeze(_attributes: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + axes.numel()
    for axis in sorted(axis % rank for axis in _ints(axes)):
        x = x.unsqueeze(axis)
    return x


def _expand(_attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    # ONNX lets the shape be the smaller of the two, torch does not
    sides = [1] * (x.ndim - shape.numel()) + _ints(shape)
    own = [1] * (len(sides) - x.ndim) + list(x.shape)
    return x.expand([side if mine == 1 else mine for side, mine in zip(sides, own, strict=True)])


def _tile(_attributes: Attributes, x: Tensor, repeats: Tensor) -> Tensor:
    return x.tile(_ints(repeats))


def _concat(attributes: Attributes, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, dim=attributes["axis"])


def _split(attributes: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = attributes.get("axis", 0)
    if sizes is not None:
        return torch.split_with_sizes(x, _ints(sizes), dim=axis)
    return torch.chunk(x, attributes["num_outputs"], dim=axis)


def _slice(_attributes: Attributes, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    first = _ints(starts)
    along = _ints(axes) if axes is not None else list(range(len(first)))
    strides = _ints(steps) if steps is not None else [1] * len(first)
    for axis, start, end, step in zip(along, first, _ints(ends), strides, strict=True):
        # Python slices as ONNX does, and takes negative steps, which torch does not
        places = range(x.shape[axis])[start : _end(end, step, x.shape[axis]) : step]
        x = x.narrow(axis, places.start, len(places)) if step == 1 else _taken(x, axis, torch.tensor(list(places), dtype=torch.int64))
    return x


def _end(end: int, step: int, side: int) -> int | None:
    """ONNX writes "to the very first" of a negative step as an end before -side, which Python clamps to the first instead."""
    return None if step < 0 and end < -side else end


def _taken(x: Tensor, axis: int, places: Tensor) -> Tensor:
    return x.index_select(axis, places.to(x.device))


def _gather(attributes: Attributes, x: Tensor, places: Tensor) -> Tensor:
    axis = attributes.get("axis", 0) % x.ndim
    taken = _taken(x, axis, places.flatten() % x.shape[axis])
    return taken.reshape([*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]])


def _gather_nd(attributes: Attributes, x: Tensor, places: Tensor) -> Tensor:
    _only(attributes, batch_dims=0)
    return x[tuple(places.to(x.device).unbind(-1))]


def _pad(attributes: Attributes, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    amounts, along = _ints(pads), _ints(axes) if axes is not None else list(range(x.ndim))
    mode = attributes.get("mode", b"constant")
    before, after = amounts[: len(along)], amounts[len(along) :]
    if mode == b"constant":
        sides = dict(zip((axis % x.ndim for axis in along), zip(before, after, strict=True), strict=True))
        every = [sides.get(axis, (0, 0)) for axis in range(x.ndim)]
        return functional.pad(x, _both_sides([a for a, _ in every], [b for _, b in every]), value=float(value) if value is not None else 0.0)
    for axis, a, b in zip(along, before, after, strict=True):
        last = x.shape[axis] - 1
        places = torch.arange(-a, last + 1 + b)
        if mode == b"reflect":
            places = last - (last - places.abs()).abs()
        elif mode != b"edge":
            raise NotImplementedError(f"`mode` = {mode}")
        x = _taken(x, axis, places.clamp(0, last))
    return x


def _range(_attributes: Attributes, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _constant_of_shape(attributes: Attributes, shape: Tensor) -> Tensor:
    value: Tensor = attributes.get("value", torch.zeros(1))
    return value.expand(_ints(shape)) if shape.numel() else value.reshape(())


def _top_k(attributes: Attributes, x: Tensor, k: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.topk(int(k), attributes.get("axis", -1), bool(attributes.get("largest", 1)), bool(attributes.get("sorted", 1))))


def _extreme(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def operator(_attributes: Attributes, *inputs: Tensor) -> Tensor:
        found = inputs[0]
        for other in inputs[1:]:
            found = function(found, other)
        return found

    return operator


def _norm(x: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    return (x * x).sum(axes, keepdim).sqrt()


OPERATORS: dict[str, Operator] = {
    name: _elementwise(cast("Callable[..., Tensor]", function))
    for name, function in {
        "Abs": torch.abs,
        "Add": torch.add,
        "And": torch.logical_and,
        "Ceil": torch.ceil,
        "Cos": torch.cos,
        "Equal": torch.eq,
        "Erf": torch.erf,
        "Exp": torch.exp,
        "Floor": torch.floor,
        "Greater": torch.gt,
        "GreaterOrEqual": torch.ge,
        "HardSwish": functional.hardswish,
        "Identity": torch.clone,
        "Less": torch.lt,
        "LessOrEqual": torch.le,
        "Log": torch.log,
        "MatMul": torch.matmul,
        "Mul": torch.mul,
        "Neg": torch.neg,
        "Not": torch.logical_not,
        "Or": torch.logical_or,
        "Pow": torch.pow,
        "Reciprocal": torch.reciprocal,
        "Relu": torch.relu,
        "Round": torch.round,
        "Sigmoid": torch.sigmoid,
        "Sin": torch.sin,
        "Softplus": functional.softplus,
        "Sqrt": torch.sqrt,
        "Sub": torch.sub,
        "Tanh": torch.tanh,
        "Where": torch.where,
    }.items()
} | {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "Div": _divide,
    "Einsum": _einsum,
    "Elu": _elu,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "HardSigmoid": _hard_sigmoid,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky_relu,
    "Max": _extreme(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _extreme(torch.minimum),
    "Pad": _pad,
    "Range": _range,
    "ReduceL2": _reduce(_norm),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "TopK": _top_k,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
