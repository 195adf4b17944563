from . import events as events
from . import readers as readers
from .batches import Batches as Batches
from .calibration_data import CalibrationData as CalibrationData
from .readers import Preprocessing as Preprocessing
from .readers import load as load
from .sampling import sample as sample

__all__ = ["Batches", "CalibrationData", "Preprocessing", "events", "load", "readers", "sample"]
