"""Products with constant tensors in all their spellings, as permutations, reshapes and one weighted operation."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rheobase.graph.operations.affine import write_affine
from rheobase.graph.operations.select import write_expanded
from rheobase.graph.operations.shape import write_permuted, write_reshape
from rheobase.graph.trace.call import Call, Fixed, Ref, Refused

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder

_PRODUCT = "multiplies two activations, which is not linear"


def write_product(builder: Builder, call: Call, write: Callable[[Builder, Call], str] | None = None) -> str:
    """Write a product, by default that of a value with constants, plus what the call adds to it."""
    x = (write or _write_sum)(builder, call)
    if call.name not in ("addmm", "addmv", "baddbmm"):  # beta * self + alpha * product
        return x
    added, beta, alpha = call["self"], float(call["beta"]), float(call["alpha"])
    scale = None if alpha == 1 else alpha
    if isinstance(added, Fixed):
        return write_affine(builder, x, call.shape, scale=scale, shift=Fixed(added.value * beta))
    terms = [(x, scale), (call.input("self"), None if beta == 1 else beta)]
    scaled = [term if f is None else write_affine(builder, term, builder.shapes[term], scale=f) for term, f in terms]
    return builder.add("add", tuple(write_expanded(builder, term, call.shape) for term in scaled), call.shape)


def as_einstein_sum(builder: Builder, call: Call) -> tuple[str, list[Any]]:
    """The equation of a call, without spaces, and its tensors."""
    equation, tensors = _TERMS[call.name](builder, call)
    return equation.replace(" ", ""), tensors


def _write_sum(builder: Builder, call: Call) -> str:
    """Write a call that is an Einstein sum."""
    equation, tensors = as_einstein_sum(builder, call)
    inputs, _, output = equation.partition("->")
    terms = inputs.split(",")
    found = [i for i, tensor in enumerate(tensors) if isinstance(tensor, Ref)]
    if len(found) > 1:
        raise Refused(_PRODUCT, "multiply by a fixed matrix")
    if not found:
        raise Refused("reads a value whose axis 0 is not the batch alone", "keep axis 0 for the batch")
    (at,) = found
    if any(not isinstance(tensor, Ref | Fixed) for tensor in tensors):
        raise Refused("reads a value whose axis 0 is not the batch alone", "keep axis 0 for the batch")
    constants = [i for i in range(len(terms)) if i != at]
    if len(constants) > 1:  # multiply them first; letters that nothing else has are summed later
        needed = "".join(dict.fromkeys(c for i in constants for c in terms[i] if c in terms[at] + output))
        made = torch.einsum(
            f"{','.join(terms[i] for i in constants)}->{needed}", *(tensors[i].value for i in constants)
        )
        weight, axes = Fixed(made), needed
    elif constants:
        weight, axes = tensors[constants[0]], terms[constants[0]]
    else:
        weight, axes = Fixed(torch.ones(())), ""
    return _write(builder, Ref(tensors[at]), terms[at], weight, axes, output)


def _write(builder: Builder, x: str, of_x: str, weight: Fixed, of_weight: str, output: str) -> str:
    """Write the product of x and a weight, whose axes have the letters ``of_x`` and ``of_weight``."""
    if len({*of_x}) < len(of_x) or len({*of_weight}) < len(of_weight) or len({*output}) < len(output):
        raise Refused("takes a diagonal in an Einstein sum", "take it with torch.diagonal first")
    batch, value = of_x[0], weight.value
    if output[:1] != batch:
        raise Refused("moves or mixes the batch axis, which must remain axis 0", "keep axis 0 for the batch")
    if batch in of_weight:  # a constant for each image of the batch
        axis = of_weight.index(batch)
        first = value.narrow(axis, 0, 1)
        if not bool((value == first).all()):
            raise Refused("uses a constant that differs between images", "use the same constant for all images")
        value, of_weight = first.squeeze(axis), of_weight.replace(batch, "")
        weight = Fixed(value)
    for c in [c for c in of_x[1:] if c in of_weight]:  # an axis of size 1 is repeated, which is as good as none
        i, j = of_x.index(c) - 1, of_weight.index(c)
        shape = builder.shapes[x]
        if value.shape[j] == 1 != shape[i]:
            weight, of_weight = Fixed(value := value.squeeze(j)), of_weight.replace(c, "")
        elif shape[i] == 1 != value.shape[j]:
            x, of_x = write_reshape(builder, x, (*shape[:i], *shape[i + 1 :])), of_x.replace(c, "")
    sizes = dict(zip(of_weight, value.shape, strict=True)) | dict(zip(of_x[1:], builder.shapes[x], strict=True))
    alone = [c for c in of_x[1:] if c not in of_weight and c not in output]
    if alone:
        x = _sum(builder, x, [of_x.index(c) for c in alone], sizes, [c for c in of_x[1:] if c not in alone])
        of_x = "".join(c for c in of_x if c not in alone)
    lost = [i for i, c in enumerate(of_weight) if c not in of_x and c not in output]
    if lost:
        weight, of_weight = Fixed(value.sum(lost)), "".join(c for c in of_weight if c in of_x + output)
    shared = [c for c in of_x[1:] if c in of_weight and c in output]
    summed = [c for c in of_x[1:] if c in of_weight and c not in output]
    rest = [c for c in of_x[1:] if c not in of_weight]
    new = [c for c in of_weight if c not in of_x]
    if not summed:
        return _scaled(builder, x, of_x[1:], weight, of_weight, output[1:], sizes)

    def size(letters: list[str]) -> int:
        return prod(sizes[c] for c in letters)

    groups, inside, outside, places = size(shared), size(summed), size(new), size(rest)
    if not shared:  # [..., rest, summed] -> [..., rest, new] by a matrix
        matrix = _matrix(weight, of_weight, [*new, *summed], (outside, inside))
        x = _arrange(builder, x, [*of_x[1:]], [*rest, *summed], sizes, (*(sizes[c] for c in rest), inside))
        shape = (*builder.shapes[x][:-1], outside)
        x = builder.add("linear", (x,), shape, label="linear", parameters={"weight": matrix})
        order = [*rest, *new]
    else:  # a matrix for each shared index: a convolution over the rest, with groups
        matrix = _matrix(weight, of_weight, [*shared, *new, *summed], (groups * outside, inside, 1))
        x = _arrange(builder, x, [*of_x[1:]], [*shared, *summed, *rest], sizes, (groups * inside, places))
        attributes = {"stride": [1], "padding": [0], "dilation": [1], "groups": groups}
        shape = (groups * outside, places)
        x = builder.add("conv", (x,), shape, label="conv", attributes=attributes, parameters={"weight": matrix})
        order = [*shared, *new, *rest]
    x = write_reshape(builder, x, tuple(sizes[c] for c in order))
    return _permuted(builder, x, order, [*output[1:]])


def _matrix(weight: Fixed, axes: str, order: list[str], shape: tuple[int, ...]) -> Fixed:
    """The weight with its axes in another order and another shape; the same object if nothing changes."""
    value: Tensor = weight.value
    if "".join(order) == axes and tuple(value.shape) == shape:
        return weight
    return Fixed(value.permute([axes.index(c) for c in order]).reshape(shape).contiguous())


def _arrange(
    builder: Builder, x: str, axes: list[str], order: list[str], sizes: dict[str, int], shape: tuple[int, ...]
) -> str:
    return write_reshape(builder, _permuted(builder, x, axes, order), shape)


def _permuted(builder: Builder, x: str, axes: list[str], order: list[str]) -> str:
    """Write ``x`` with its axes in another order."""
    return write_permuted(builder, x, [axes.index(c) for c in order])


def _sum(builder: Builder, x: str, dims: list[int], sizes: dict[str, int], kept: list[str]) -> str:
    """Write the sum over some axes: the mean, times the number of values."""
    number = prod(builder.shapes[x][d - 1] for d in dims)
    shape = tuple(sizes[c] for c in kept)
    x = builder.add("mean", (x,), shape, attributes={"dim": dims, "keepdim": False})
    return write_affine(builder, x, shape, scale=float(number))


def _scaled(
    builder: Builder, x: str, axes: str, weight: Fixed, of_weight: str, output: str, sizes: dict[str, int]
) -> str:
    """Write a product without a sum: each element times constants, at every index of the weight's own axes."""
    order = [c for c in output if c in axes]
    x = _permuted(builder, x, [*axes], order)
    x = write_reshape(builder, x, tuple(sizes[c] if c in axes else 1 for c in output))
    shape = tuple(sizes[c] for c in output)
    scale = _matrix(
        weight,
        of_weight,
        [c for c in output if c in of_weight],
        tuple(sizes[c] if c in of_weight else 1 for c in output),
    )
    if not of_weight and bool(scale.value == 1):
        return x
    return write_affine(builder, x, shape, scale=scale)


# -- the calls as Einstein sums ---------------------------------------------------------------------------------------


def _rank(builder: Builder, tensor: Any) -> int:
    if isinstance(tensor, Ref):
        return len(builder.shapes[tensor]) + 1
    if isinstance(tensor, Fixed):
        return int(tensor.value.dim())
    raise Refused("reads a value whose axis 0 is not the batch alone", "keep axis 0 for the batch")


def _matmul(builder: Builder, call: Call) -> tuple[str, list[Any]]:
    """``left @ right``; axes before the last two are the same for both, or missing, or 1 for a constant."""
    names = ("mat1", "mat2") if "mat1" in call else ("batch1", "batch2") if "batch1" in call else None
    left, right = (call[n] for n in names or ("self", next(n for n in ("other", "mat2", "vec") if n in call)))
    ranks = _rank(builder, left), _rank(builder, right)
    a, b = (_letters(rank, first) for rank, first in zip(ranks, (True, False), strict=True))
    lead = max(a[:-2], b[:-2], key=len)
    output = lead + ("y" if ranks[0] > 1 else "") + ("x" if ranks[1] > 1 else "")
    if isinstance(left, Ref) and ranks[0] == 2 < ranks[1]:
        raise Refused("multiplies the batch axis", "keep axis 0 for the batch in every operation")
    return f"{a},{b}->{output}", [left, right]


def _letters(rank: int, left: bool) -> str:
    """Letters of an operand of a matrix product: leading axes from the last backwards, y rows, z summed, x columns."""
    lead = ascii_lowercase[: max(rank - 2, 0)][::-1]
    matrix = ("yz" if rank > 1 else "z") if left else ("zx" if rank > 1 else "z")
    return lead + matrix


def _einsum(builder: Builder, call: Call) -> tuple[str, list[Any]]:
    equation, tensors = call["equation"].replace(" ", ""), list(call["tensors"])
    inputs, arrow, output = equation.partition("->")
    terms = inputs.split(",")
    free = "".join(c for c in ascii_lowercase if c not in equation)
    covered = [_rank(builder, t) - len(term.replace(".", "")) for t, term in zip(tensors, terms, strict=True)]
    most = max((n for n, term in zip(covered, terms, strict=True) if "." in term), default=0)
    dots = free[:most]
    terms = [term.replace("...", dots[most - n :]) for n, term in zip(covered, terms, strict=True)]
    if not arrow:
        joined = "".join(terms)
        output = dots + "".join(sorted(c for c in {*joined} if joined.count(c) == 1 and c not in dots))
    return f"{','.join(terms)}->{output.replace('...', dots)}", tensors


def _tensordot(builder: Builder, call: Call) -> tuple[str, list[Any]]:
    tensors = [call["self"], call["other"]]
    ranks = [_rank(builder, tensor) for tensor in tensors]
    a, b = [*ascii_lowercase[: ranks[0]]], [*ascii_lowercase[ranks[0] : sum(ranks)]]
    for i, j in zip(call["dims_self"], call["dims_other"], strict=True):
        b[j] = a[i]
    output = [c for c in a if c not in b] + [c for c in b if c not in a]
    return f"{''.join(a)},{''.join(b)}->{''.join(output)}", tensors


def _cumulative_sum(builder: Builder, call: Call) -> tuple[str, list[Any]]:
    x = call.input("self")
    shape = builder.shapes[x]
    axis = call["dim"] % (len(shape) + 1)
    if axis == 0:
        raise Refused("adds up images of the batch", "keep axis 0 for the batch in every operation")
    letters = ascii_lowercase[: len(shape) + 1]
    ones = Fixed(torch.ones(shape[axis - 1], shape[axis - 1]).triu())
    return f"{letters},{letters[axis]}z->{letters.replace(letters[axis], 'z')}", [x, ones]


_TERMS: dict[str, Callable[[Any, Call], tuple[str, list[Any]]]] = {
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "addmm", "addmv", "baddbmm"), _matmul),
    "einsum": _einsum,
    "tensordot": _tensordot,
    "cumsum": _cumulative_sum,
}
PRODUCTS = tuple(_TERMS)
"""Names of the calls."""
