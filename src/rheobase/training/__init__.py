"""Training: one loop for a CPU, a GPU or several processes, with augmentation, distillation and runs that resume."""

from rheobase.training.augment import Augmentation
from rheobase.training.loop import Epoch, Trained, train
from rheobase.training.settings import Training

__all__ = ["Augmentation", "Epoch", "Trained", "Training", "train"]
