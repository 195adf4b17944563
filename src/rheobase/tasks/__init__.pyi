from .choice import TASKS as TASKS
from .choice import TaskName as TaskName
from .choice import assumption as assumption
from .choice import default as default
from .choice import inferred as inferred
from .choice import named as named
from .choice import task_for as task_for
from .choice import uncertain as uncertain
from .task import AGREEMENT as AGREEMENT
from .task import IGNORED as IGNORED
from .task import OUTPUT_ERROR as OUTPUT_ERROR
from .task import Measure as Measure
from .task import Scores as Scores
from .task import Task as Task
from .task import share as share

__all__ = [
    "AGREEMENT",
    "IGNORED",
    "OUTPUT_ERROR",
    "TASKS",
    "Measure",
    "Scores",
    "Task",
    "TaskName",
    "assumption",
    "default",
    "inferred",
    "named",
    "share",
    "task_for",
    "uncertain",
]
