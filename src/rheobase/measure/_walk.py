"""What the measurements of every site share: the checks, the walk over the images, the fields of the result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rheobase.core.progress import track
from rheobase.core.results import Column, Result
from rheobase.data.batches import Batches, batches, count
from rheobase.data.value_range import ValueRange, warn_of_another_scale
from rheobase.network.folding import refuse_folded_thresholds
from rheobase.network.spiking_network import SpikingNetwork, check_converted
from rheobase.neurons.response import Alphabet

ALPHABET = Column("alphabet", "alphabet", align="left")
"""The column of tables with one row for each site."""


@dataclass(frozen=True)
class SiteResult(Result):
    """Base of results with one row for each site.

    Attributes:
        rows: one for each site, in execution order.
        timesteps: T of the run.
        images: number of images.
        method: name of the recipe.
    """

    rows: tuple[Any, ...]
    timesteps: int
    images: int
    method: str

    @property
    def title(self) -> str:
        """Method, T, number of images, and the alphabet of all sites."""
        alphabet = Alphabet.union(row.alphabet for row in self.rows)
        return f"{self.method}, T = {self.timesteps}, {self.images} images, alphabet {alphabet.label}"


def method_of(network: SpikingNetwork) -> str:
    """Name of the recipe."""
    return str(network.recipe.get("name", ""))


def check_run(network: SpikingNetwork, timesteps: int | None, *, by_site: bool = False) -> int:
    """Return T of a run, default that of the conversion.

    Raises:
        ModelError: if the network is not a spiking network.
        RecipeError: if it cannot run for T steps; with ``by_site``, if its thresholds are folded into its weights, so
            that its sites cannot be compared with the analog network's.
    """
    check_converted(network)
    steps = network.timesteps if timesteps is None else timesteps
    network.check_timesteps(steps)
    if by_site:
        refuse_folded_thresholds(network)
    return steps


def sub_batches(
    network: SpikingNetwork, images: Batches, steps: int, title: str, *, progress: bool = False
) -> Iterator[Tensor]:
    """Yield the images in sub-batches for a run of ``steps`` steps, checked and on the network's device.

    Raises:
        DataError: if there are no images, or they do not fit the network.

    Warns:
        RheobaseWarning: after the last image, if they are on another scale than the calibration images.
    """
    values = ValueRange()
    for batch, _ in track(batches(images, where="images", labels=False), title, show=progress, total=count(images)):
        checked = network.check_images(batch)
        values.add(checked)
        yield from checked.split(network.sub_batch_size(steps))
    warn_of_another_scale(values, network.provenance.calibration.get("values"), "images", stacklevel=4)
