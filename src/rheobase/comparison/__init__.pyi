from ._compare import all_recipes as all_recipes
from ._compare import compare as compare
from ._within_budget import BudgetedConversion as BudgetedConversion
from ._within_budget import convert_within_budget as convert_within_budget
from .grid import Comparison as Comparison
from .page import html_page as html_page
from .page import write_report as write_report

__all__ = [
    "BudgetedConversion",
    "Comparison",
    "all_recipes",
    "compare",
    "convert_within_budget",
    "html_page",
    "write_report",
]
