from ._compare import all_recipes as all_recipes
from ._compare import compare as compare
from .comparison import Comparison as Comparison

__all__ = ["Comparison", "all_recipes", "compare"]
