from .augment import Augmentation as Augmentation
from .loop import Epoch as Epoch
from .loop import Trained as Trained
from .loop import train as train
from .settings import Training as Training

__all__ = ["Augmentation", "Epoch", "Trained", "Training", "train"]
