"""SlipReLU: training with a mixture of the clipped ReLU and QCFS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from rheobase import activations
from rheobase.graph import Graph
from rheobase.graph.sites import Site
from rheobase.methods.activation_part import ACTIVATION_PARTS, InitialThreshold, StaircaseActivation
from rheobase.methods.neuron_part import BySite, IntegrateFireNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.passes import Thresholds
from rheobase.passes.statistics import Granularity


class SlipActivation(StaircaseActivation):
    """A mixture of the clipped ReLU and QCFS at every site (:class:`rheobase.activations.SlipReLU`).

    Args:
        slip: s, the share of the clipped ReLU.
        levels, granularity, threshold, percentile: see :class:`StaircaseActivation`; the QCFS part rounds to nearest.
    """

    kind: Literal["slip"] = "slip"  # type: ignore[assignment]
    rounding: Literal["round"] = "round"
    slip: float = Field(default=0.5, ge=0, le=1)

    def modules(
        self, graph: Graph, images: Tensor, sites: Sequence[Site], known: Mapping[str, Tensor]
    ) -> dict[str, activations.QuantisedActivation]:
        """A :class:`rheobase.activations.SlipReLU` at every site."""
        levels = self.levels_of(sites)
        thresholds = self.start(graph, images, sites, levels, known)
        return {name: activations.SlipReLU(levels[name], thresholds[name], self.slip) for name in levels}


ACTIVATION_PARTS["slip"] = SlipActivation


@published
def SlipReLU(
    timesteps: int = 8,
    levels: BySite | None = 8,
    slip: float = 0.5,
    granularity: Granularity = "layer",
    initial_threshold: InitialThreshold = "mse",
) -> Recipe:
    """Integrate-and-fire neurons on a network trained with a mixture of the clipped ReLU and QCFS (Jiang et al. 2023).

    Quantise and train the network first: ``rb.quantise(net, rb.SlipReLU(), ...)``, ``rb.train``.

    Args:
        timesteps: T.
        levels: L of the QCFS part, of every site or by site name.
        slip: s, the share of the clipped ReLU; 0 is QCFS.
        granularity: one θ per layer or per channel.
        initial_threshold: θ before training: ``"mse"``, ``"percentile"`` or ``"max"`` of the calibration images, or a
            number, such as 8 in the code of QCFS.

    Example:
        >>> SlipReLU(timesteps=4, levels=4).activation.slip
        0.5
    """
    return Recipe(
        name="SlipReLU",
        timesteps=timesteps,
        activation=SlipActivation(levels=levels, slip=slip, granularity=granularity, threshold=initial_threshold),
        neuron=IntegrateFireNeuron(initial_potential=0.5),
        calibration=(Thresholds(method="saturation", granularity=granularity),),
    )
