from . import activations as activations
from . import comparison as comparison
from . import core as core
from . import data as data
from . import exchange as exchange
from . import graph as graph
from . import measure as measure
from . import methods as methods
from . import network as network
from . import neurons as neurons
from . import passes as passes
from . import signals as signals
from . import tasks as tasks
from . import testing as testing
from . import training as training
from . import zoo as zoo
from .activations.staircase import QCFS as QCFS
from .comparison._compare import compare as compare
from .comparison._within_budget import convert_within_budget as convert_within_budget
from .core.devices import spread_over as spread_over
from .core.errors import RheobaseError as RheobaseError
from .core.errors import RheobaseWarning as RheobaseWarning
from .core.freed_memory import keep_freed_memory as keep_freed_memory
from .exchange.store import load as load
from .exchange.store import save as save
from .exchange.whole_numbers._integers import integers as integers
from .measure._diagnose import diagnose as diagnose
from .measure._energy import energy as energy
from .measure._evaluate import evaluate as evaluate
from .measure._inspect import inspect as inspect
from .measure._latency import latency as latency
from .methods import COS as COS
from .methods import FTBC as FTBC
from .methods import OPI as OPI
from .methods import QAC as QAC
from .methods import QVM as QVM
from .methods import RMP as RMP
from .methods import RTS as RTS
from .methods import SNM as SNM
from .methods import SRP as SRP
from .methods import TPP as TPP
from .methods import TSC as TSC
from .methods import AdaFire as AdaFire
from .methods import Burst as Burst
from .methods import DAParallel as DAParallel
from .methods import Graded as Graded
from .methods import MultiThreshold as MultiThreshold
from .methods import ParallelConversion as ParallelConversion
from .methods import Pascal as Pascal
from .methods import RateCoding as RateCoding
from .methods import Recipe as Recipe
from .methods import SlipReLU as SlipReLU
from .methods import SNNCalibration as SNNCalibration
from .methods import register as register
from .methods._convert import convert as convert
from .methods._convert import quantise as quantise
from .network.inference import for_inference as for_inference
from .network.spiking_network import SpikingNetwork as SpikingNetwork
from .training import Training as Training
from .training import train as train

__all__ = [
    "COS",
    "FTBC",
    "OPI",
    "QAC",
    "QCFS",
    "QVM",
    "RMP",
    "RTS",
    "SNM",
    "SRP",
    "TPP",
    "TSC",
    "AdaFire",
    "Burst",
    "DAParallel",
    "Graded",
    "MultiThreshold",
    "ParallelConversion",
    "Pascal",
    "RateCoding",
    "Recipe",
    "RheobaseError",
    "RheobaseWarning",
    "SNNCalibration",
    "SlipReLU",
    "SpikingNetwork",
    "Training",
    "activations",
    "compare",
    "comparison",
    "convert",
    "convert_within_budget",
    "core",
    "data",
    "diagnose",
    "energy",
    "evaluate",
    "exchange",
    "for_inference",
    "graph",
    "inspect",
    "integers",
    "keep_freed_memory",
    "latency",
    "load",
    "measure",
    "methods",
    "network",
    "neurons",
    "passes",
    "quantise",
    "register",
    "save",
    "signals",
    "spread_over",
    "tasks",
    "testing",
    "train",
    "training",
    "zoo",
]
