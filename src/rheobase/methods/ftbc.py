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
    """A bias for every channel and step that makes each step's mean output the ANN's (Wu et al. 2024).

    On a ReLU network as it is; with ``threshold="saturation"`` on one trained with a thresholded ReLU (the paper's
    "+RTS"). The result runs for the T it was calibrated for and no other.

    Args:
        timesteps: T.
        alpha: α > 0, the step of the correction.
        ramp: how much later deep layers fire than shallow ones, 0 to 1; see :class:`rheobase.passes.TemporalBias`. 0
            asks the same of every step, as the paper does.
        updates: corrections of a bias each time its step is reached.
        iterations: how often all steps are gone through, at most; each costs a simulation of the calibration images.
        batch_size: images in a batch.
        batches: how many batches, pooled.
        patience: stop after so many iterations that did not help on held-out images.
        threshold: how θ is chosen; see :class:`rheobase.passes.Thresholds`.
        granularity: one θ a channel, or one a layer.
        percentile: for ``threshold="percentile"``.
        initial_potential: V0/θ before correction.
        scale: first scale each site's thresholds by the logit error (:class:`rheobase.passes.ScaleThresholds`; not in
            the paper); costs a few simulations for each site.

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
