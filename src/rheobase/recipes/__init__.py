"""Published methods as recipes: a few lines each, all over the same parts."""

from rheobase.recipes.baselines import OPI, RTS, SNNCalibration
from rheobase.recipes.ftbc import FTBC
from rheobase.recipes.rate_coding import RateCoding
from rheobase.recipes.recipe import METHODS, IntegrateFireNeuron, Recipe

__all__ = ["FTBC", "METHODS", "OPI", "RTS", "IntegrateFireNeuron", "RateCoding", "Recipe", "SNNCalibration"]
