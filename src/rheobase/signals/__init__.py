"""What flows on an edge: spike trains, other time series, constants; and how trains of different T are aligned."""

from rheobase.signals.alignment import Alignment
from rheobase.signals.signal import (
    Constant,
    MeanSpikes,
    Signal,
    SpikeCounts,
    SpikeTrain,
    TimeSeries,
    along_channels,
    count_spikes,
)

__all__ = [
    "Alignment",
    "Constant",
    "MeanSpikes",
    "Signal",
    "SpikeCounts",
    "SpikeTrain",
    "TimeSeries",
    "along_channels",
    "count_spikes",
]
