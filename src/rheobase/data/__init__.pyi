from . import events as events
from . import readers as readers
from .batches import Batches as Batches
from .calibration_data import CalibrationData as CalibrationData
from .readers import Preprocessing as Preprocessing

__all__ = ["Batches", "CalibrationData", "Preprocessing", "events", "readers"]
