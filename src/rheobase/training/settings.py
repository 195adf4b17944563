"""The settings of a training run, as one frozen value that YAML and the command line share."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field, FiniteFloat, model_validator

from rheobase.core.errors import RheobaseError, TrainingError
from rheobase.core.values import Value
from rheobase.training.augment import Augmentation


class Training(Value):
    r"""The settings of a training run. Network, data and hardware are arguments of :func:`rheobase.train`.

    The learning rate of step s of S, with W warm-up steps, is η(s + 1)/W during warm-up, then constant or by the cosine
    rule η/2 · (1 + cos(π(s − W)/(S − W))) (Loshchilov & Hutter 2017, Eq. 5, without restarts).

    With a teacher of logits z', the loss of an image with logits z and label y is

    .. math:: (1 - w) \, \mathrm{CE}(z, y) + w \, D(z, z')

    where D is τ² KL(softmax(z'/τ) ‖ softmax(z/τ)) (Hinton et al. 2015) or the mean of (z − z')² over the classes.
    Without labels w = 1, without a teacher w = 0. Tasks with several decisions for an image (labels, pixels) take the
    mean over them, and a single logit z stands for (0, z). For a regression CE and D are the mean squared error.

    Args:
        epochs: number of epochs.
        learning_rate: η, the maximum; the learning rate of learned time-steps is relative to it.
        batch_size: images in a step, over all processes. The remainder of an epoch, which differs between epochs, is
            not used: batch norm needs more than one image, and every process the same number.
        optimiser: stochastic gradient descent, or AdamW (Loshchilov & Hutter 2019).
        momentum: momentum of "sgd".
        weight_decay: factor of the decay.
        decayed: the parameters that decay. "weights": all but biases, those of batch norms and quantised activations,
            and names that end in "threshold", for which decay is no regularisation. "all": every one, as in the code
            of QCFS and PASCAL.
        schedule: "cosine" to zero, or "constant".
        warmup_epochs: number of epochs in which the learning rate rises linearly; may be fractional.
        label_smoothing: ε of the cross-entropy (Szegedy et al. 2016).
        augment: augmentation of the training images.
        teacher_weight: w.
        teacher_loss: D.
        temperature: τ.
        clip: maximum L2 norm of the gradient of all parameters together; None: no clipping.
        patience: stop after this number of successive epochs without improvement on the validation images; None: never.
        keep: keep the weights of the "last" epoch, or of the "best" on the validation images, with the highest accuracy
            and then the lowest loss (classification, binary); the lowest loss (other tasks, no labels).
        exact_statistics: finally set mean and variance of every batch norm to their means over the batches of one more
            epoch, with the kept weights ("precise BN", Wu & Johnson 2021), instead of running means over the last few
            batches. Costs the forward passes of an epoch; the notes report the change on the validation images.
        precision: precision of forward and backward pass; mixed precision needs a GPU.

    Raises:
        TrainingError: naming every unknown or invalid field.

    Example:
        >>> Training(epochs=2, learning_rate=0.1).rate_at(step=10, steps_per_epoch=10)
        0.05
    """

    place: ClassVar[str | None] = "training"
    refusal: ClassVar[type[RheobaseError]] = TrainingError

    epochs: int = Field(ge=1)
    learning_rate: FiniteFloat = Field(gt=0)
    batch_size: int = Field(default=128, ge=1)
    optimiser: Literal["sgd", "adamw"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: FiniteFloat = Field(default=5e-4, ge=0)
    decayed: Literal["weights", "all"] = "weights"
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: FiniteFloat = Field(default=0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augment: Augmentation | None = None
    teacher_weight: float = Field(default=0.5, ge=0, le=1)
    teacher_loss: Literal["kl", "squared_error"] = "kl"
    temperature: FiniteFloat = Field(default=4.0, gt=0)
    clip: FiniteFloat | None = Field(default=None, gt=0)
    patience: int | None = Field(default=None, ge=1)
    keep: Literal["last", "best"] = "last"
    exact_statistics: bool = False
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    @model_validator(mode="after")
    def _leaves_epochs_after_warmup(self) -> Training:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} must be less than epochs, {self.epochs}")
        return self

    def rate_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step, counted from 0 over all epochs."""
        warmup, total = round(self.warmup_epochs * steps_per_epoch), self.epochs * steps_per_epoch
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
