"""What flows on an edge: spike trains, other time series, constants; and how trains of different T are aligned."""

from rheobase.signals.alignment import Alignment
from rheobase.signals.signal import Constant, Signal, TimeSeries

__all__ = ["Alignment", "Constant", "Signal", "TimeSeries"]
