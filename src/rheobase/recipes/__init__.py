"""Published methods as recipes: a few lines each, all over the same parts."""

from rheobase.recipes.rate_coding import RateCoding
from rheobase.recipes.recipe import METHODS, IntegrateFireNeuron, Recipe

__all__ = ["METHODS", "IntegrateFireNeuron", "RateCoding", "Recipe"]
