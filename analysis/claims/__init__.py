"""The quantitative claims of a lecture, recomputed from their inputs (`playmeter claims`).

``formulas`` holds one small function a claim, ``check`` evaluates them and gives the verdicts, ``terminal`` and
``page`` show them in the words of ``words``.
"""

from analysis.claims.check import ClaimsError, check

__all__ = ["ClaimsError", "check"]
