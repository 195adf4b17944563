"""Integrate, fire and reset by subtraction for all steps at once.

Elementwise operations in plain PyTorch read and write the potential several times a step. Compiled, all steps of a
neuron are one loop that reads each current once and writes each spike once. On a CPU that is two to seven times faster
for rules with a division, and hardly faster for the comparison of the integrate-and-fire neuron, which ``auto`` leaves
in plain PyTorch there. Compilation takes ten seconds and more, so it starts only after this process has simulated
``WARM_UP`` neuron-steps in plain PyTorch. Both paths do the same IEEE operations in the same order and give the same
numbers; a test compares them.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from rheobase.core.errors import RecipeError, RheobaseWarning, first_line
from rheobase.neurons.firing import FiringRule

Fusion = Literal["auto", "always", "never"]
Rule = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(potential, threshold, net number of emitted spikes or None) -> spikes of this step."""
State = tuple[Tensor, ...]

CHUNK = 8
"""Steps unrolled in one compiled loop; for more steps the loop runs several times and the potential is passed on."""
BINARY_RULE = FiringRule()
"""The rule of the integrate-and-fire neuron, which needs no division."""
WARM_UP = 2e9
"""Neuron-steps of one rule in plain PyTorch (about ten seconds) before ``auto`` compiles it."""


class _Policy:
    def __init__(self) -> None:
        self.mode: Fusion = "auto"
        self.done: Counter[Hashable] = Counter()
        self.compiled: dict[Hashable, Callable[..., State]] = {}
        self.broken = False

    def wants_compiled(self, rule: Hashable, elements: int, *, gains: bool = True) -> bool:
        """Count the elements of a rule: each is compiled for itself, so that a comparison of many pays for few.

        ``gains``: compiled, it is so much faster that ``auto`` may compile it.
        """
        if self.mode == "never" or self.broken or not (gains or self.mode == "always"):
            return False
        self.done[rule] += elements
        return self.mode == "always" or self.done[rule] > WARM_UP

    def compile(self, loop: Callable[..., State], *constants: Hashable) -> Callable[..., State]:
        """The compiled loop; ``constants``, its first arguments, are constants of the compiled code."""
        key = loop, *constants
        if key not in self.compiled:
            # variants of one loop: each rule, number of unrolled steps, and layout, with and without bias
            for limit in ("cache_size_limit", "accumulated_cache_size_limit"):
                setattr(torch._dynamo.config, limit, max(1024, getattr(torch._dynamo.config, limit)))
            # dynamic: one compilation serves every layer's shape; only the number of unrolled steps is part of the code
            self.compiled[key] = torch.compile(partial(loop, *constants), dynamic=True, fullgraph=True)
        return self.compiled[key]

    def give_up(self, error: Exception) -> None:
        """Use plain PyTorch after a failure of the compiler, with a warning; the numbers are the same."""
        self.broken = True
        reason = first_line(error)
        warnings.warn(
            f"fusion: the compiler failed ({reason}); neurons run in plain PyTorch, slower. Remedy: install a C++ "
            'compiler, or call set_fusion("never")',
            RheobaseWarning,
            stacklevel=3,
        )


_policy = _Policy()


def set_fusion(mode: Fusion) -> None:
    """Choose when the loop of integrate-and-fire neurons is compiled, for this process.

    The numbers are the same in every mode. Compilation takes seconds and needs a C++ compiler; without one, neurons run
    in plain PyTorch, with a warning.

    Args:
        mode: ``auto``: after about ten seconds of simulation by one rule, but on a CPU not for integrate-and-fire
            neurons, which gain little; ``always``; ``never``.

    Raises:
        RecipeError: if ``mode`` is another value.

    Example:
        >>> set_fusion("never")
        >>> set_fusion("auto")
    """
    if mode not in ("auto", "always", "never"):
        raise RecipeError(f"is {mode!r}", where="fusion", remedy="use auto, always or never")
    _policy.mode = mode


def fusion() -> Fusion:
    """The mode that :func:`set_fusion` chose."""
    return _policy.mode


def run_loop(
    run: Callable[[Callable[..., State]], State], loop: Callable[..., State], *constants: Hashable, elements: int
) -> State:
    """``run(loop)``, with the compiled loop if that is worth it; ``constants`` are the first arguments of the loop.

    If the compiler fails, ``run`` is called again with the plain loop: it must not have changed the loop's inputs.
    """
    if _policy.wants_compiled((loop, *constants), elements):
        try:
            return run(_policy.compile(loop, *constants))
        except Exception as error:
            _policy.give_up(error)
    return run(partial(loop, *constants))


def fire_train(
    currents: Tensor,
    threshold: Tensor,
    state: State,
    bias: Tensor | None,
    rule: Rule,
    overwrite: bool = False,
    potentials: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Integrate, fire and reset by subtraction over all steps.

    Args:
        currents: [T, B, C, ...].
        threshold: θ, [] or [C].
        state: before the first step: the potential [B, C, ...], which may be an expanded view, and, if the rule depends
            on it, the net number of spikes emitted before, of the same shape.
        bias: subtracted from the current at each step, [T, C], or None.
        rule: spikes for a potential; only a :class:`rheobase.neurons.firing.FiringRule` is compiled.
        overwrite: write the spikes over the currents.
        potentials: memory for the potentials before firing, of the layout of a current, or None.

    Returns:
        θ·spikes [T, B, C, ...], and the state after the last step.
    """
    if len(currents) == 0:
        return currents, state
    if (
        isinstance(rule, FiringRule)
        and not torch.is_grad_enabled()
        and _policy.wants_compiled(
            (rule, bias is None), currents.numel(), gains=rule != BINARY_RULE or currents.device.type != "cpu"
        )
        and (layout := Layout.of(currents[0])) is not None
    ):
        try:
            # more steps are a second compilation; if that fails, the first loop has already overwritten currents
            whole = overwrite and len(currents) <= CHUNK
            return _fire_compiled(currents, threshold, state, bias, rule, layout, whole, potentials)
        except Exception as error:
            _policy.give_up(error)
    return _fire_plain(currents, threshold, state, bias, rule, overwrite, potentials)


def _fire_plain(
    currents: Tensor,
    threshold: Tensor,
    state: State,
    bias: Tensor | None,
    rule: Rule,
    overwrite: bool,
    potentials: Tensor | None,
) -> tuple[Tensor, State]:
    channels = (-1,) + (1,) * (currents.dim() - 3)
    theta = threshold.reshape(channels) if threshold.dim() else threshold
    amplitude = torch.where(theta.isinf(), 0.0, theta)
    values = currents if overwrite else torch.empty_like(currents)
    potential, *counters = (torch.empty_like(currents[0]).copy_(part) for part in state)
    sent = counters[0] if counters else None
    for t, (current, value) in enumerate(zip(currents, values, strict=True)):
        potential += current
        if bias is not None:
            potential -= bias[t].reshape(channels)
        if potentials is not None:
            potentials[t] = potential
        if rule == BINARY_RULE:
            torch.ge(potential, theta, out=value)
        else:
            spikes = rule(potential, theta, sent)
            if sent is not None:
                sent += spikes
            value.copy_(spikes)
        value *= amplitude
        potential -= value
    return values, (potential, *counters)


def _fire_canonical(
    rule: FiringRule,
    out: list[Tensor] | None,
    currents: list[Tensor],
    theta: Tensor,
    state: State,
    bias: Tensor | None,
    potentials: list[Tensor] | None,
) -> State:
    """The loop that is compiled; returns the state after the last step.

    Steps are lists, because the compiler copies the whole [T, N, C, S] for every step that is written into it.

    Args:
        rule: spikes for a potential; a constant of the compiled code.
        out: T tensors [N, C, S], to write θ·spikes to; None: over the currents.
        currents: T tensors [N, C, S].
        theta: [C, 1].
        state: each [N, C, S] or [C, 1].
        bias: [T, C, 1].
        potentials: T tensors [N, C, S], to write the potentials before firing to.
    """
    potential, *counters = state
    sent = counters[0] if counters else None
    amplitude = torch.where(theta.isinf(), 0.0, theta)
    for t, current in enumerate(currents):
        potential = potential + current
        if bias is not None:
            potential = potential - bias[t]
        if potentials is not None:
            potentials[t].copy_(potential)
        if rule == BINARY_RULE:
            value = torch.where(potential >= theta, theta, 0.0)
        else:
            spikes = rule(potential, theta, sent)
            sent = None if sent is None else sent + spikes
            value = spikes * amplitude
        potential = potential - value
        (current if out is None else out[t]).copy_(value)
    return (potential,) if sent is None else (potential, sent)


def _fire_compiled(
    currents: Tensor,
    threshold: Tensor,
    state: State,
    bias: Tensor | None,
    rule: FiringRule,
    layout: Layout,
    overwrite: bool,
    potentials: Tensor | None,
) -> tuple[Tensor, State]:
    shape, like = currents.shape, currents[0]
    currents, state = layout.view(currents, 1), tuple(_canonical(part, like, layout) for part in state)
    values = currents if overwrite else torch.empty(currents.shape, dtype=currents.dtype, device=currents.device)
    theta = threshold.expand(currents.shape[2]).reshape(-1, 1)
    fire = _policy.compile(_fire_canonical, rule)
    for start in range(0, len(currents), CHUNK):
        part = slice(start, start + CHUNK)
        out = None if overwrite else list(values[part].unbind(0))
        biases = None if bias is None else bias[part].unsqueeze(-1)
        record = None if potentials is None else list(layout.view(potentials, 1)[part].unbind(0))
        state = fire(out, list(currents[part].unbind(0)), theta, state, biases, record)
    return layout.restore(values, shape, 1), tuple(layout.restore(part, shape[1:], 0) for part in state)


def _canonical(potential: Tensor, like: Tensor, layout: Layout) -> Tensor:
    """[B, C, ...] -> [N, C, S]; [C, 1] if all neurons of a channel have one value, which saves reading memory."""
    strides = potential.stride()
    if not any(strides[:1] + strides[2:]):
        return potential[0].flatten(1)[:, :1].contiguous() if potential.dim() > 2 else potential[0].reshape(-1, 1)
    if layout != Layout.of(potential):
        potential = torch.empty_like(like).copy_(potential)
    return layout.view(potential, 0)


class Layout:
    """The memory layout of [B, C, ...], and its view as [N, C, S] without a copy: S = 1 for channels last."""

    def __init__(self, channels_last: bool) -> None:
        self.channels_last = channels_last

    @staticmethod
    def of(rows: Tensor) -> Layout | None:
        """The layout of [B, C, ...], or None if it is neither contiguous nor channels last."""
        if rows.is_contiguous():
            return Layout(False)
        return Layout(True) if rows.movedim(1, -1).is_contiguous() else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and other.channels_last == self.channels_last

    def empty(self, like: Tensor) -> Tensor:
        """Uninitialised [T, B, C, ...] of this layout, with the shape, dtype and device of ``like``."""
        if not self.channels_last:
            return torch.empty(like.shape, dtype=like.dtype, device=like.device)
        return torch.empty(like.movedim(2, -1).shape, dtype=like.dtype, device=like.device).movedim(-1, 2)

    def view(self, x: Tensor, lead: int) -> Tensor:
        """[.., B, C, ...] with ``lead`` axes before the batch -> [.., N, C, S]."""
        if self.channels_last:
            return x.movedim(lead + 1, -1).flatten(lead, -2).unsqueeze(-1)
        return x.flatten(lead + 2) if x.dim() > lead + 2 else x.unsqueeze(-1)

    def restore(self, x: Tensor, shape: torch.Size, lead: int) -> Tensor:
        """Undo :meth:`view`."""
        if self.channels_last:
            batch_and_space = (shape[lead], *shape[lead + 2 :])
            return x.squeeze(-1).unflatten(lead, batch_and_space).movedim(-1, lead + 1)
        return x.reshape(shape)
