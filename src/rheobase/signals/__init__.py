"""Signals on the edges of a graph: spike trains, other time series and constants; alignment of different T."""

from rheobase.signals.alignment import Alignment as Alignment
from rheobase.signals.signal import Constant as Constant
from rheobase.signals.signal import MeanSpikes as MeanSpikes
from rheobase.signals.signal import Signal as Signal
from rheobase.signals.signal import SpikeCounts as SpikeCounts
from rheobase.signals.signal import SpikeTrain as SpikeTrain
from rheobase.signals.signal import TimeSeries as TimeSeries
from rheobase.signals.signal import along_channels as along_channels
from rheobase.signals.signal import count_spikes as count_spikes
