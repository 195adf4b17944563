"""The unevenness error: the effect of an input that is unevenly distributed over time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rheobase.core.results import Column, Table
from rheobase.data.batches import Batches
from rheobase.measure._walk import ALPHABET, SiteResult, check_run, method_of, sub_batches
from rheobase.network.observe import Observation, analog_values, observe
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons.response import Alphabet


@dataclass(frozen=True)
class SiteUnevenness:
    """The unevenness error of one site, over its neurons and all images.

    Attributes:
        site, timesteps, neurons: name, T and number of neurons of the site.
        alphabet: the numbers of spikes that its neurons may emit in one step.
        error: ξ, mean of (θ/T)·|N − M|, in activation units.
        relative: Σ (θ/T)·|N − M| / Σ (θ/T)·|M|; None if no neuron fires for a constant current.
        changed: fraction of neurons × images with N ≠ M.
        ann_error: mean of |a − (θ/T)·N|, a the analog network's activation; includes the errors of all sites before.
    """

    site: str
    timesteps: int
    neurons: int
    alphabet: Alphabet
    error: float
    relative: float | None
    changed: float
    ann_error: float


@dataclass(frozen=True)
class Unevenness(SiteResult):
    """The unevenness error of every site."""

    in_json = ("error",)

    rows: tuple[SiteUnevenness, ...]

    @property
    def error(self) -> float:
        """ξ, mean over the neurons of all sites."""
        return sum(row.error * row.neurons for row in self.rows) / sum(row.neurons for row in self.rows)

    def table(self) -> Table:
        """One row for each site."""
        columns = (
            Column("site", "site", align="left"),
            Column("T", "timesteps"),
            ALPHABET,
            Column("neurons", "neurons"),
            Column("unevenness ξ", "error", "{:.3g}"),
            Column("ξ relative", "relative", "{:.2f} %", scale=100),
            Column("counts changed", "changed", "{:.2f} %", scale=100),
            Column("from the ANN's activation", "ann_error", "{:.3g}"),
        )
        return Table(columns, self.rows, self.title)


@torch.no_grad()
def unevenness(
    network: SpikingNetwork, images: Batches, timesteps: int | None = None, *, progress: bool = False
) -> Unevenness:
    r"""Measure the error due to the uneven distribution of the input over time, at every site (QVM, Eq. 5 and Fig. 3).

    The network is simulated step by step. Each neuron emits N spikes for the current I[t] that arrives, and would emit
    M spikes, from the same V0, for a constant current of the same sum:

    .. math::
        \begin{aligned}
        \xi &= \frac{\theta}{T} |N - M|, & N &= \mathrm{spikes}(I[1], \dots, I[T]), \\
        z &= \frac{1}{T} \sum_t I[t], & M &= \mathrm{spikes}(z, \dots, z)
        \end{aligned}

    A bias that a neuron subtracts at every step is part of the current. By QVM's Theorems 2 and 3, M at T = L with the
    matching V0 is the quantised activation of the arriving current, so ξ is Eq. 5 for a site with correct input.
    Differs from the paper: Eq. 5 has the analog network's activation a in place of (θ/T)·M and so includes the errors
    of all sites before. This is ``ann_error`` (which also has all other errors if T ≠ L or the activation is not
    quantised).

    For neurons that average their input (QVM, PASCAL), N = M except for sums within rounding of a threshold.

    Arguments and errors are those of :func:`rheobase.diagnose`.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> images = torch.rand(4, 3, 32, 32)
        >>> snn = rb.convert(zoo.resnet20(), rb.RateCoding(timesteps=4), calibration=images)
        >>> rb.measure.unevenness(snn, images).rows[0].error  # the image is the same at every step
        0.0
    """
    steps = check_run(network, timesteps, by_site=True)
    sums = torch.zeros(len(network.sites), 4, dtype=torch.float64)
    seen = 0
    for sub_batch in sub_batches(network, images, steps, "simulating", progress=progress):
        activations = analog_values(network.ann, sub_batch)

        def add(found: Observation, activations: dict[str, Tensor] = activations) -> None:
            sums[found.site.index] += _sums(found, activations[found.site.name])

        observe(network, sub_batch, steps, add)
        seen += len(sub_batch)
    rows = []
    for site, (error, constant, changed, ann_error) in zip(network.sites, sums.tolist(), strict=True):
        places = site.neurons * seen
        row = SiteUnevenness(
            site=site.name,
            timesteps=network.steps_of(site.name, steps),
            neurons=site.neurons,
            alphabet=network.neuron(site.name).alphabet,
            error=error / places,
            relative=error / constant if constant else None,
            changed=changed / places,
            ann_error=ann_error / places,
        )
        rows.append(row)
    return Unevenness(tuple(rows), steps, seen, method_of(network))


def _sums(found: Observation, activation: Tensor) -> Tensor:
    """Sums of (θ/T)·|N − M|, (θ/T)·|M|, [N ≠ M] and |a − (θ/T)·N| over neurons and images."""
    constant, spike = found.constant.net, found.spike / found.steps
    gap = (found.spikes.net - constant).abs()
    terms = (gap * spike, constant.abs() * spike, gap != 0, (activation - found.emitted).abs())
    return torch.stack([term.sum(dtype=torch.float64).cpu() for term in terms])
