"""The unevenness error: the effect of an input that is unevenly distributed over time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rheobase.core.progress import track
from rheobase.core.results import Column, Result, Table
from rheobase.data.batches import Batches, batches, count
from rheobase.graph.sites import Site
from rheobase.network.folding import check_unfolded
from rheobase.network.observe import Observation, analog_values, observe
from rheobase.network.spiking_network import SpikingNetwork, check_converted


@dataclass(frozen=True)
class SiteUnevenness:
    """The unevenness error of one site, over its neurons and all images.

    Attributes:
        site: name of the site.
        timesteps: T of the site.
        neurons: number of neurons.
        error: ξ, mean of (θ/T)·|N − M|, in activation units.
        relative: Σ (θ/T)·|N − M| / Σ (θ/T)·M; None if no neuron fires for a constant current.
        changed: fraction of neurons × images with N ≠ M.
        ann_error: mean of |a − (θ/T)·N|, a the analog network's activation; includes the errors of all sites before.
    """

    site: str
    timesteps: int
    neurons: int
    error: float
    relative: float | None
    changed: float
    ann_error: float


@dataclass(frozen=True)
class Unevenness(Result):
    """The unevenness error of every site, in execution order.

    Attributes:
        rows: one for each site.
        timesteps: T of the run.
        images: number of images.
        method: name of the recipe.
    """

    in_json = ("error",)

    rows: tuple[SiteUnevenness, ...]
    timesteps: int
    images: int
    method: str

    @property
    def error(self) -> float:
        """ξ, mean over the neurons of all sites."""
        return sum(row.error * row.neurons for row in self.rows) / sum(row.neurons for row in self.rows)

    def table(self) -> Table:
        """One row for each site."""
        columns = (
            Column("site", "site", align="left"),
            Column("T", "timesteps"),
            Column("neurons", "neurons"),
            Column("unevenness ξ", "error", "{:.3g}"),
            Column("ξ relative", "relative", "{:.2f} %", scale=100),
            Column("counts changed", "changed", "{:.2f} %", scale=100),
            Column("from the ANN's activation", "ann_error", "{:.3g}"),
        )
        return Table(columns, self.rows, f"{self.method}, T = {self.timesteps}, {self.images} images")


@torch.no_grad()
def unevenness(
    network: SpikingNetwork, images: Batches, timesteps: int | None = None, *, progress: bool = False
) -> Unevenness:
    r"""Measure the error due to the uneven distribution of the input over time, at every site (QVM, Eq. 5 and Fig. 3).

    The network is simulated step by step. Each neuron emits N spikes for the current I[t] that arrives, and would emit
    M spikes, from the same V0, for a constant current of the same sum:

    .. math::
        \xi = \frac{\theta}{T} |N - M|, \qquad
        N = \mathrm{spikes}(I[1], \dots, I[T]), \qquad
        M = \mathrm{spikes}(z, \dots, z), \quad z = \frac{1}{T} \sum_t I[t]

    A bias that a neuron subtracts at every step is part of the current. By QVM's Theorems 2 and 3, M at T = L with the
    matching V0 is the quantised activation of the arriving current, so ξ is Eq. 5 for a site with correct input.
    Differs from the paper: Eq. 5 has the analog network's activation a in place of (θ/T)·M and so includes the errors
    of all sites before. This is ``ann_error`` (which also has all other errors if T ≠ L or the activation is not
    quantised).

    For neurons that average their input (QVM, PASCAL), N = M except for sums within rounding of a threshold.

    Args:
        network: a converted network; always simulated, for any ``execution``.
        images: a tensor [N, ...] or batches.
        timesteps: T; default that of the conversion.
        progress: show a progress bar with the time left.

    Raises:
        DataError: if there are no images, or they do not fit the network.
        RecipeError: if the network cannot run for T steps, or its thresholds are folded into its weights.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> images = torch.rand(4, 3, 32, 32)
        >>> snn = rb.convert(zoo.resnet20(), rb.RateCoding(timesteps=4), calibration=images)
        >>> rb.measure.unevenness(snn, images).rows[0].error  # the image is the same at every step
        0.0
    """
    check_converted(network)
    check_unfolded(network)
    steps = network.timesteps if timesteps is None else timesteps
    network.check_timesteps(steps)
    sums = [_Sums() for _ in network.sites]
    seen = 0
    for batch, _ in track(batches(images, where="images"), "simulating", show=progress, total=count(images)):
        for sub_batch in network.check_images(batch).split(network.sub_batch_size(steps)):
            _, activations = analog_values(network, sub_batch)

            def add(found: Observation, activations: dict[str, Tensor] = activations) -> None:
                sums[found.site.index].add(found, activations[found.site.name])

            observe(network, sub_batch, steps, add)
        seen += len(batch)
    rows = tuple(
        total.row(site, network.steps_of(site.name, steps), seen)
        for site, total in zip(network.sites, sums, strict=True)
    )
    return Unevenness(rows, steps, seen, str(network.recipe.get("name", "")))


@dataclass
class _Sums:
    """Sums over all neurons of a site and the images so far, in float64 or whole numbers."""

    error: float = 0.0
    even: float = 0.0
    ann_error: float = 0.0
    changed: int = 0

    def add(self, found: Observation, activation: Tensor) -> None:
        """Add an observation and the analog network's activation."""
        spikes, even, spike = found.spikes.net, found.constant.net, found.amplitude / found.steps
        self.error += float(((spikes - even).abs() * spike).sum(dtype=torch.float64))
        self.even += float((even * spike).sum(dtype=torch.float64))
        # in the dtype of the activation, so that equal levels are equal numbers
        emitted = spikes.to(activation.dtype) * spike
        self.ann_error += float((activation - emitted).abs().sum(dtype=torch.float64))
        self.changed += int(torch.count_nonzero(spikes != even))

    def row(self, site: Site, timesteps: int, images: int) -> SiteUnevenness:
        places = site.neurons * images
        return SiteUnevenness(
            site.name,
            timesteps,
            site.neurons,
            self.error / places,
            self.error / self.even if self.even else None,
            self.changed / places,
            self.ann_error / places,
        )
