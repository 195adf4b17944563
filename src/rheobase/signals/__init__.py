"""Signals on the edges of a graph: spike trains, other time series and constants; alignment of different T."""

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
