"""Functions of one variable in whole numbers: a table of whole entries."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from rheobase.graph.operations.numbers import OnNumbers
from rheobase.graph.operations.operation import NodeContext, built_in

GAIN_BITS = 15
"""Bits of a gain after the point: the entry times the gain is divided by 2^15."""


@built_in
class Lookup(OnNumbers):
    r"""A function of one variable, looked up in a table of whole entries F, all in whole numbers.

    The input is the sum S of whole numbers over t steps. The threshold θ stands for ``per_threshold`` steps N of the
    table, and the output is the entry nearest to the mean S/t, times a gain g in units of 2^-15, both rounded half up:

    .. math::
        i = \mathrm{clip}\Big(\Big\lfloor \frac{2 N S + t \theta}{2 t \theta} \Big\rfloor, first, last\Big), \qquad
        f(S, t) = \Big\lfloor \frac{F_i \, g + 2^{14}}{2^{15}} \Big\rfloor

    In a simulation the node gives :math:`out[t] = t f(S_t, t) - (t - 1) f(S_{t-1}, t - 1)`, so that its sum over t
    steps is exactly t f(S_t, t). :func:`rheobase.integers` writes it in place of a function on numbers.

    Attributes of a node: ``function``, its name, for messages; ``first``, the index i of the first entry;
    ``per_threshold``, N. Parameters: ``table``, F, [E], or [..., E] for entries that differ over a sample;
    ``gain`` and ``threshold``, [], or broadcast against one sample.

    Example:
        >>> half = {"table": torch.tensor([-4.0, 0.0, 4.0]), "gain": torch.tensor(2.0**14)}  # entries halved
        >>> x = torch.tensor([[-9.0, -5.0, 4.0, 5.0]])
        >>> Lookup().of_sum(x, 1, first=-1, per_threshold=1, threshold=torch.tensor(10.0), **half)
        tensor([[-2.,  0.,  0.,  2.]])
    """

    name = "lookup"

    def apply(
        self,
        x: Tensor,
        *,
        function: str,
        first: int,
        per_threshold: int,
        table: Tensor,
        gain: Tensor,
        threshold: Tensor,
    ) -> Tensor:
        return self.of_sum(x, 1, first, per_threshold, table, gain, threshold)

    def of_sum(
        self, total: Tensor, steps: int, first: int, per_threshold: int, table: Tensor, gain: Tensor, threshold: Tensor
    ) -> Tensor:
        """f for the sum over a number of steps, [B, ...]; computed in float64, which holds all its numbers exactly."""
        theta = threshold.double() * steps
        # every index beyond one threshold is that of an end of the table: a bound of the products
        within = total.double().clamp(-theta, theta)
        index = ((2 * per_threshold * within + theta) / (2 * theta)).floor_()
        place = (index - first).clamp_(0, table.shape[-1] - 1).long()
        if table.dim() > 1:  # one table after the other
            start = torch.arange(prod(table.shape[:-1]), device=place.device) * table.shape[-1]
            place += start.reshape(table.shape[:-1])
        entry = table.flatten()[place].double()
        return ((entry * gain.double() + 2 ** (GAIN_BITS - 1)) / 2**GAIN_BITS).floor_().to(total.dtype)

    def scale_output(
        self, at: NodeContext, factor: Tensor | None, offset: Tensor | None
    ) -> Mapping[str, Tensor] | None:
        """Move a factor into the gain."""
        return None if factor is None or offset is not None else {"gain": at.parameters["gain"] * factor}

    def work(self, at: NodeContext) -> int:
        return prod(at.shape)
