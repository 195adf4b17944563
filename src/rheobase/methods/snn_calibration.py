"""SNN Calibration (Li et al. 2021)."""

from __future__ import annotations

from typing import Literal

from rheobase.core.errors import RecipeError
from rheobase.methods.neuron_part import IntegrateFireNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.passes import BiasCorrection, PotentialCorrection, ShiftCurrent, Thresholds, WeightCalibration
from rheobase.passes.statistics import Granularity


@published
def SNNCalibration(
    timesteps: int = 32,
    pipeline: Literal["light", "advanced"] = "light",
    weights: bool = False,
    granularity: Granularity = "channel",
    images: int = 128,
    weight_iterations: int = 5000,
    learning_rate: float = 1e-5,
) -> Recipe:
    """SNN Calibration: least-squares thresholds, a shift of θ/(2T) at every step, then corrections (Li et al. 2021).

    Args:
        timesteps: T.
        pipeline: ``light`` (LP) corrects the bias of every channel, ``advanced`` (AP) the initial potential of every
            neuron.
        weights: for ``advanced``: fit the weights first, as the paper does on ImageNet.
        granularity: one θ per channel or per layer.
        images: number of calibration images for each correction, all simulated at once.
        weight_iterations: iterations of the weight stage per layer.
        learning_rate: learning rate of the weight stage.

    Example:
        >>> [part.kind for part in SNNCalibration(pipeline="advanced").calibration]
        ['thresholds', 'shift_current', 'potential_correction']
    """
    if weights and pipeline == "light":
        raise RecipeError("has no effect in the light pipeline", where="weights", remedy='use pipeline="advanced"')
    fit = WeightCalibration(iterations=weight_iterations, learning_rate=learning_rate, images=images)
    correction = BiasCorrection(images=images) if pipeline == "light" else PotentialCorrection(images=images)
    return Recipe(
        name=f"SNNCalibration ({pipeline})",
        timesteps=timesteps,
        neuron=IntegrateFireNeuron(initial_potential=0),
        calibration=(
            Thresholds(granularity=granularity, shift=0.5),
            ShiftCurrent(shift=0.5),
            *((fit,) if weights else ()),
            correction,
        ),
    )
