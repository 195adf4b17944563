"""Temporal alignment: what a train of T' steps is to a site that runs for T."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from rheobase.core.values import Value
from rheobase.signals.signal import Constant, Signal


class Alignment(Value):
    r"""How a train of T' steps becomes one of T where it meets, or feeds, a site with another T (QAC, section 4.3).

    .. math:: \hat x[t] = \sum_{i=1}^{T'} w(t, i) \, x[i], \qquad t = 1 \dots T

    - ``"average"``: w = 1/T', the time-mean at every step (Eqs. 12, 13). The current is then even, and nothing is lost.
    - ``"replicate"`` (T' < T): the nearest step by whole numbers, :math:`i - 1 = \lfloor (t - 1) T' / T \rfloor`. Where
      T' does not divide T, some steps count more than others.
    - ``"truncate"`` (T' > T): the first T steps; what comes later is lost.

    All three take the branches of a sum or concat one by one, before they meet, and commute with everything affine.
    Where T' = T the train passes as it is. Only for neurons that take their input step by step: ``ConstantCurrent``
    takes the mean on every edge, and ``Pasc`` the sum, whatever T' is.

    Args:
        expansion: where T' < T.
        reduction: where T' > T.

    Example:
        >>> import torch
        >>> from rheobase.signals import TimeSeries
        >>> train = TimeSeries(torch.tensor([1.0, 0.0, 2.0]).reshape(3, 1, 1))
        >>> Alignment(expansion="replicate").align(train, 5).values.flatten()
        tensor([1., 1., 0., 0., 2.])
        >>> Alignment(reduction="truncate").align(train, 2).values.flatten()
        tensor([1., 0.])
        >>> Alignment().align(train, 2).values.flatten()
        tensor([1.])
    """

    place: ClassVar[str | None] = "alignment"

    expansion: Literal["average", "replicate"] = "average"
    reduction: Literal["average", "truncate"] = "average"

    def align(self, signal: Signal, steps: int) -> Signal:
        """The signal for a site that runs for ``steps`` steps: a train of that many, or a constant."""
        if isinstance(signal, Constant) or signal.steps == steps:
            return signal
        if signal.steps < steps and self.expansion == "replicate":
            return replace(signal, values=signal.values[[t * signal.steps // steps for t in range(steps)]])
        if signal.steps > steps and self.reduction == "truncate":
            return replace(signal, values=signal.values[:steps])
        return Constant(signal.mean())
