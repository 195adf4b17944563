"""Formulae as MathML, which browsers show without a script, so that the site asks no other host for anything."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from math_core import LatexError, LatexToMathML

FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)
CONVERTER = LatexToMathML(fancy_error=False)


def render(page: str, report: Callable[[str], object]) -> str:
    """Replace what arithmatex wrote for the formulae of a page, and report those that cannot be parsed."""

    def mathml(found: re.Match[str]) -> str:
        tag, latex = found["tag"], html.unescape(found["latex"]).strip()
        try:
            formula = CONVERTER.convert_with_local_state(latex, displaystyle=tag == "div")
        except LatexError as error:
            position, _, reason = str(error).partition(": ")
            report(f"the formula {latex!r}, at character {position}: {reason}")
            return found[0]
        return f'<{tag} class="formula">{formula}</{tag}>'

    return FORMULA.sub(mathml, page)
