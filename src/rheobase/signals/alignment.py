"""Temporal alignment: convert a time series of T' steps for a site that runs for T steps."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from rheobase.core.values import Value
from rheobase.signals.signal import Constant, Signal


class Alignment(Value):
    r"""How a time series of T' steps is converted to T steps, for a site with another T (QAC, section 4.3).

    .. math:: \hat x[t] = \sum_{i=1}^{T'} w(t, i) \, x[i], \qquad t = 1 \dots T

    - ``"average"``: w = 1/T', the time-mean at every step (Eqs. 12, 13). The current is then constant, and its mean is
      preserved.
    - ``"replicate"`` (T' < T): repeated steps, :math:`i - 1 = \lfloor (t - 1) T' / T \rfloor`. If T' does not divide T,
      some steps are repeated more often than others.
    - ``"truncate"`` (T' > T): the first T steps; later steps are discarded.

    The branches of a sum or concatenation are aligned before it; all three options commute with affine operations. If
    T' = T the time series is unchanged. Only streaming neurons need an alignment: ``ConstantCurrent`` uses the mean of
    its input, and ``Pasc`` the sum, for any T'.

    Args:
        expansion: the rule for T' < T.
        reduction: the rule for T' > T.

    Example:
        >>> import torch
        >>> from rheobase.signals import TimeSeries
        >>> series = TimeSeries(torch.tensor([1.0, 0.0, 2.0]).reshape(3, 1, 1))
        >>> Alignment(expansion="replicate").align(series, 5).values.flatten()
        tensor([1., 1., 0., 0., 2.])
        >>> Alignment(reduction="truncate").align(series, 2).values.flatten()
        tensor([1., 0.])
        >>> Alignment().align(series, 2).values.flatten()
        tensor([1.])
    """

    place: ClassVar[str | None] = "alignment"

    expansion: Literal["average", "replicate"] = "average"
    reduction: Literal["average", "truncate"] = "average"

    def align(self, signal: Signal, steps: int) -> Signal:
        """The signal for a site that runs for ``steps`` steps: a time series of ``steps`` steps, or a constant."""
        if isinstance(signal, Constant) or signal.steps == steps:
            return signal
        if signal.steps < steps and self.expansion == "replicate":
            return replace(signal, values=signal.values[[t * signal.steps // steps for t in range(steps)]])
        if signal.steps > steps and self.reduction == "truncate":
            return replace(signal, values=signal.values[:steps])
        return Constant(signal.mean())
