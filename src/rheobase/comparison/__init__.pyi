from ._compare import all_recipes as all_recipes
from ._compare import compare as compare
from .grid import Comparison as Comparison
from .page import html_page as html_page
from .page import write_report as write_report

__all__ = ["Comparison", "all_recipes", "compare", "html_page", "write_report"]
