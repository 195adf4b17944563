"""QVM: quantisation-voltage matching."""

from __future__ import annotations

from rheobase.activations import Rounding
from rheobase.methods.activation_part import InitialThreshold, StaircaseActivation
from rheobase.methods.neuron_part import BySite, ConstantCurrentNeuron, Levels
from rheobase.methods.recipe import Recipe, published
from rheobase.passes.statistics import Granularity


@published
def QVM(
    levels: BySite | None = None,
    timesteps: Levels | None = None,
    rounding: Rounding = "round",
    initial_potential: float | None = None,
    granularity: Granularity = "layer",
    initial_threshold: InitialThreshold = "mse",
) -> Recipe:
    """Quantisation-voltage matching: constant-current neurons whose V0 matches the rounding of the activation.

    QVM, Theorems 1-3: at T = L the spiking network has the output of the quantised network, without unevenness error.
    Quantise and train the network first: ``rb.quantise(net, rb.QVM(levels=4), ...)``, ``rb.train``.

    Args:
        levels: L of every site, or by site name; None: as trained.
        timesteps: T of every site; default: its levels. The converted network runs for any T, or, with levels by site,
            for any T that gives each site a whole number of steps.
        rounding: Q of the activation.
        initial_potential: V0/θ; default: 0, ½, 1 for floor, round, ceil.
        granularity: one θ per layer or per channel.
        initial_threshold: θ before training: ``"mse"``, ``"percentile"`` or ``"max"`` of the calibration images, or a
            number, such as 8 in the code of QCFS.

    Example:
        >>> QVM(levels=4, rounding="ceil").activation.rounding
        'ceil'
    """
    return Recipe(
        name="QVM",
        timesteps=timesteps,
        activation=StaircaseActivation(
            levels=levels, rounding=rounding, granularity=granularity, threshold=initial_threshold
        ),
        neuron=ConstantCurrentNeuron(initial_potential=initial_potential, timesteps=timesteps),
    )
