from . import plots as plots
from ._diagnose import Diagnosis as Diagnosis
from ._diagnose import diagnose as diagnose
from ._distribution import Distribution as Distribution
from ._distribution import distribution as distribution
from ._early_exit import EarlyExit as EarlyExit
from ._early_exit import early_exit as early_exit
from ._energy import Costs as Costs
from ._energy import Energy as Energy
from ._energy import energy as energy
from ._evaluate import Evaluation as Evaluation
from ._evaluate import evaluate as evaluate
from ._inspect import Inspection as Inspection
from ._inspect import inspect as inspect
from ._latency import Latency as Latency
from ._latency import latency as latency
from ._potentials import Potentials as Potentials
from ._potentials import potentials as potentials
from ._traffic import Memory as Memory
from ._traffic import Traffic as Traffic
from ._traffic import traffic as traffic
from ._unevenness import Unevenness as Unevenness
from ._unevenness import unevenness as unevenness

__all__ = [
    "Costs",
    "Diagnosis",
    "Distribution",
    "EarlyExit",
    "Energy",
    "Evaluation",
    "Inspection",
    "Latency",
    "Memory",
    "Potentials",
    "Traffic",
    "Unevenness",
    "diagnose",
    "distribution",
    "early_exit",
    "energy",
    "evaluate",
    "inspect",
    "latency",
    "plots",
    "potentials",
    "traffic",
    "unevenness",
]
