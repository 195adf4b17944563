"""Calibration without training, as published before: OPI, RTS, SNN Calibration."""

from __future__ import annotations

from typing import Literal

from rheobase.calibrate import BiasCorrection, PotentialCorrection, ShiftCurrent, Thresholds, WeightCalibration
from rheobase.calibrate.statistics import Granularity
from rheobase.calibrate.thresholds import ThresholdMethod
from rheobase.errors import RecipeError
from rheobase.recipes.parts import IntegrateFireNeuron
from rheobase.recipes.recipe import Recipe, published


@published
def OPI(
    timesteps: int = 32,
    threshold: ThresholdMethod = "percentile",
    granularity: Granularity = "channel",
    percentile: float = 99.9,
) -> Recipe:
    """Optimal initial potential: V0 = θ/2 at every neuron (Bu et al. 2022).

    Args:
        timesteps: T.
        threshold: how θ is chosen; see :class:`rheobase.calibrate.Thresholds`.
        granularity: one θ a channel, or one a layer.
        percentile: for ``threshold="percentile"``.

    Example:
        >>> OPI(timesteps=8).neuron.initial_potential
        0.5
    """
    thresholds = Thresholds(method=threshold, granularity=granularity, percentile=percentile)
    return Recipe(
        name="OPI", timesteps=timesteps, neuron=IntegrateFireNeuron(initial_potential=0.5), calibration=(thresholds,)
    )


@published
def RTS(
    timesteps: int = 32,
    threshold: ThresholdMethod = "percentile",
    granularity: Granularity = "channel",
    percentile: float = 99.9,
    shift: float = 0.5,
) -> Recipe:
    """ReLU with threshold and shift: a current of shift · θ/T at every step (Deng & Gu 2021).

    With ``threshold="saturation"`` for a network trained with the thresholded ReLU, as published; with any other choice
    for a ReLU network as it is.

    Args:
        timesteps: T.
        threshold: how θ is chosen; see :class:`rheobase.calibrate.Thresholds`.
        granularity: one θ a channel, or one a layer.
        percentile: for ``threshold="percentile"``.
        shift: in units of θ.

    Example:
        >>> RTS(timesteps=8).calibration[1].shift
        0.5
    """
    return Recipe(
        name="RTS",
        timesteps=timesteps,
        neuron=IntegrateFireNeuron(initial_potential=0),
        calibration=(
            Thresholds(method=threshold, granularity=granularity, percentile=percentile, shift=shift),
            ShiftCurrent(shift=shift),
        ),
    )


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
        pipeline: ``light`` (LP) corrects a bias for every channel; ``advanced`` (AP) an initial potential for every
            neuron.
        weights: for ``advanced``: fit the weights first, as the paper does on ImageNet.
        granularity: one θ a channel, or one a layer.
        images: calibration images for each correction, simulated all at once.
        weight_iterations: of the weight stage, for each layer.
        learning_rate: of the weight stage.

    Example:
        >>> [part.kind for part in SNNCalibration(pipeline="advanced").calibration]
        ['thresholds', 'shift_current', 'potential_correction']
    """
    if weights and pipeline == "light":
        raise RecipeError(
            "has no effect in the light pipeline",
            where="weights",
            remedy='use pipeline="advanced" for the weight stage',
        )
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
