"""Training through time: weights and neurons fine-tuned through the simulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import Field
from torch import Tensor

from rheobase.core.errors import CalibrationError
from rheobase.data import CalibrationData
from rheobase.network import SpikingNetwork
from rheobase.network.trainable import TrainableNetwork, Trains, check_trains_through_time
from rheobase.passes.calibration_pass import Changes
from rheobase.passes.fine_tuning import FineTuning
from rheobase.training import Augmentation


class ThroughTime(FineTuning):
    r"""Fine-tune weights, θ, V0 and a bias for every step through the simulation, by surrogate gradient.

    The loss is that of the logits after T steps, the time-mean of the readout: by default the distillation loss

    .. math:: \tau^2 \, \mathrm{KL}\big(\mathrm{softmax}(o_{ANN} / \tau) \,\|\, \mathrm{softmax}(o_{SNN} / \tau)\big)

    (Hinton et al. 2015) to the analog network, which needs no labels; other tasks than classification have their own
    (:mod:`rheobase.tasks`), a regression the squared error. Backpropagation runs through all steps and sites
    (Wu et al. 2018; :class:`rheobase.network.TrainableNetwork`), so that layers and steps learn to make up for each
    other. The result is an ordinary spiking network with the same neurons. Put the pass last, after passes that set
    thresholds and correct means: it starts from their result.

    Needs streaming neurons. The best epoch on the held-out images is kept; the pass is reverted if none is better than
    the original. If a parameter or the loss becomes NaN or infinite, training stops and the best epoch so far is kept.

    Args:
        target, temperature, epochs, learning_rate, batch_size, warmup, clip, patience, seed: see :class:`FineTuning`.
        trains: what is trained; ``bias`` is a bias for every step, and the network then runs for this T only.
        width: width of the surrogate gradient, in units of θ.
        rate: learning rate of log θ, V0/θ and the biases, as a multiple of that of the weights.
        augment: augmentation of the fitted images, such as random flips: ``rb.training.Augmentation(crop_padding=0)``.

    Raises:
        CalibrationError: if the neurons of a site wait for their whole input, with the pass to use instead.
    """

    kind: Literal["through_time"] = "through_time"
    stage = "training through time"
    epochs: int = Field(default=6, ge=1)
    learning_rate: float = Field(default=5e-4, gt=0)
    batch_size: int = Field(default=32, ge=2)
    warmup: float = Field(default=0.5, ge=0, lt=1)
    trains: tuple[Trains, ...] = Field(default=get_args(Trains), min_length=1)
    width: float = Field(default=1.0, gt=0)
    rate: float = Field(default=10.0, gt=0)
    patience: int = Field(default=10, ge=1)
    augment: Augmentation | None = None

    def check(self, network: SpikingNetwork) -> None:
        """Every site needs streaming, differentiable neurons."""
        check_trains_through_time(network, CalibrationError)

    def prepare(self, network: SpikingNetwork, data: CalibrationData, changes: Changes, progress: bool) -> list[str]:
        """All parameters of the trainable network."""
        return [name for name, _ in self.trainable(network).named_parameters()]

    def augmentation(self, data: CalibrationData) -> Augmentation | None:
        """``augment``."""
        return self.augment

    def trainable(self, network: SpikingNetwork) -> TrainableNetwork:
        """The differentiable simulation."""
        return TrainableNetwork(network, trains=self.trains, width=self.width, rate=self.rate)

    def adopt(self, network: SpikingNetwork, state: Mapping[str, Tensor]) -> None:
        """Set the trained weights and neurons."""
        trained = self.trainable(network)
        trained.load_state_dict(state)
        trained.write(network)
