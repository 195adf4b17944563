"""The QCFS network with integrate-and-fire neurons, run step by step: the comparison of every table."""

from __future__ import annotations

from rheobase.methods.activation_part import InitialThreshold, StaircaseActivation
from rheobase.methods.neuron_part import BySite, IntegrateFireNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.passes import Thresholds
from rheobase.passes.statistics import Granularity


@published
def QCFS(
    timesteps: int = 8,
    levels: BySite | None = 8,
    granularity: Granularity = "layer",
    initial_threshold: InitialThreshold = "mse",
) -> Recipe:
    """Integrate-and-fire neurons with V0 = θ/2 and the trained θ of QCFS activations (Bu et al. 2022).

    Quantise and train the network first: ``rb.quantise(net, rb.methods.QCFS(levels=8), ...)``, ``rb.train``. For any T;
    exact only for layers whose input is constant. (``rb.QCFS`` is the activation.)

    Args:
        timesteps: T.
        levels: L of every site, or by site name; None: as trained.
        granularity: one θ per layer or per channel.
        initial_threshold: θ before training: ``"mse"``, ``"percentile"`` or ``"max"`` of the calibration images, or a
            number, such as 8 in the authors' code.

    Example:
        >>> QCFS(timesteps=4).activation.levels
        8
    """
    return Recipe(
        name="QCFS",
        timesteps=timesteps,
        activation=StaircaseActivation(levels=levels, granularity=granularity, threshold=initial_threshold),
        neuron=IntegrateFireNeuron(initial_potential=0.5),
        calibration=(Thresholds(method="saturation", granularity=granularity),),
    )
