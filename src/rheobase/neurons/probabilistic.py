"""Temporally probabilistic spikes: the neuron of TPP, which fires at random in proportion to its input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rheobase.core.seeds import check_seed, generator
from rheobase.neurons.neuron import check_threshold
from rheobase.neurons.response import finite_amplitude
from rheobase.neurons.window import WindowNeuron
from rheobase.signals.signal import Signal, along_channels


class Probabilistic(WindowNeuron):
    r"""Accumulate the input of all steps, then fire at random in proportion to what is left of it.

    With :math:`v = T z` after the last step of the input, for t = 0..T−1

    .. math:: P(s[t] = 1) = \mathrm{clip}\Big(\frac{v}{\theta (T - t)}, 0, 1\Big), \qquad v \leftarrow v - \theta s[t]

    (Bojkovic et al. 2025, "Temporal misalignment in ANN-SNN conversion and its mitigation via probabilistic spiking
    neurons", TPP). For 0 <= z <= θ the number of spikes is ⌊Tz/θ⌋ or one more. Because of the clip its mean is larger
    than Tz/θ below z = θ/2, where a remainder smaller than θ may fire at every step, and smaller above.

    The random numbers of a site, one for each neuron and step, follow from the seed and are the same for every image:
    so a result does not depend on how images are divided into batches.

    Args:
        threshold: θ > 0, [] or [C]; infinity for a silent channel.
        timesteps: T.
        seed: of the random numbers; another one for each site.

    Example:
        >>> import torch
        >>> from rheobase.signals.signal import Constant
        >>> neuron = Probabilistic(torch.tensor(1.0), timesteps=4, seed=0)
        >>> int(neuron.fire(Constant(torch.full((1, 1), 0.5)), 4).sum())
        2
    """

    kind = "probabilistic"
    trained_threshold = False
    trained_timesteps = False
    settable = ("threshold",)

    def __init__(self, threshold: Tensor, timesteps: int, seed: int) -> None:
        super().__init__(threshold, timesteps, "floor")
        self.seed = check_seed(seed)

    @staticmethod
    def check_threshold(threshold: Tensor) -> None:
        """Refuse a threshold that is not positive; infinity is allowed, for a silent channel."""
        check_threshold(threshold)

    def response(self, steps: int) -> None:
        """None: the number of spikes is random."""
        return

    def fire(self, signal: Signal, steps: int) -> Tensor:
        """Draw the spikes of every step."""
        z = signal.mean()
        draws = torch.rand(steps, *z.shape[1:], generator=generator(self.seed)).to(z)
        theta = along_channels(self.threshold, z.dim())
        potential = z * (steps / theta)  # in units of θ; 0 for a silent channel
        spikes = []
        for t, draw in enumerate(draws):
            fired = (draw * (steps - t) < potential).to(z.dtype)
            potential = potential - fired
            spikes.append(fired)
        return torch.stack(spikes).mul_(along_channels(finite_amplitude(self.amplitude), z.dim()))

    def residual(self, current: Tensor, spikes: Tensor, steps: int) -> Tensor:
        """T z/θ − N; 0 for a silent channel."""
        theta = along_channels(self.threshold, current.dim())
        return torch.where(theta.isinf(), 0.0, steps * current.double() / theta - spikes)

    def config(self) -> dict[str, Any]:
        """``timesteps`` and ``seed``."""
        return {"timesteps": self.timesteps, "seed": self.seed}
