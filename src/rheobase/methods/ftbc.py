"""Forward temporal bias correction."""

from __future__ import annotations

from rheobase.methods.neuron_part import IntegrateFireNeuron
from rheobase.methods.recipe import Recipe, published
from rheobase.passes import ScaleThresholds, TemporalBias, Thresholds
from rheobase.passes.statistics import Granularity
from rheobase.passes.thresholds import ThresholdMethod


@published
def FTBC(
    timesteps: int = 8,
    alpha: float = 0.5,
    ramp: float = 1.0,
    updates: int = 20,
    iterations: int = 5,
    batch_size: int = 128,
    batches: int = 2,
    patience: int = 3,
    threshold: ThresholdMethod = "mse",
    granularity: Granularity = "channel",
    percentile: float = 99.9,
    initial_potential: float = 0.5,
    scale: bool = False,
) -> Recipe:
    """Fit a bias for every channel and step to the mean activation of the ANN (Wu et al. 2024).

    For a ReLU network, or, with ``threshold="saturation"``, for one trained with a thresholded ReLU (the paper's
    "+RTS"). The converted network runs only for the T that it was calibrated for.

    Args:
        timesteps: T.
        alpha: α > 0, step size of the correction.
        ramp: rise of the target with t, steeper for deeper sites, 0 to 1; see :class:`rheobase.passes.TemporalBias`. 0
            is the constant target of the paper.
        updates: number of corrections of a bias each time its step is reached.
        iterations: maximum number of passes over all steps; each costs a simulation of the calibration images.
        batch_size: images in a batch.
        batches: number of batches, which are pooled.
        patience: stop after this number of iterations without improvement on the held-out images.
        threshold: the method that sets θ; see :class:`rheobase.passes.Thresholds`.
        granularity: one θ per channel or per layer.
        percentile: in percent, for ``threshold="percentile"``.
        initial_potential: V0/θ before correction.
        scale: first scale the thresholds of each site to minimise the logit error
            (:class:`rheobase.passes.ScaleThresholds`), at a cost of a few simulations per site. Differs from the paper.

    Example:
        >>> FTBC(timesteps=8).calibration[1].alpha
        0.5
    """
    return Recipe(
        name="FTBC",
        timesteps=timesteps,
        neuron=IntegrateFireNeuron(initial_potential=initial_potential),
        calibration=(
            Thresholds(method=threshold, granularity=granularity, percentile=percentile),
            *((ScaleThresholds(images=96, sweeps=1),) if scale else ()),
            TemporalBias(
                alpha=alpha,
                ramp=ramp,
                updates=updates,
                iterations=iterations,
                batch_size=batch_size,
                batches=batches,
                patience=patience,
            ),
        ),
    )
