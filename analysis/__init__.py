"""Explain: reads run folders and published figures, never torch or gymnasium.

``tables`` reads folders, ``statistics`` and ``convert`` compute, ``summary`` puts the numbers together, ``charts`` and
``report`` show them. Importing this package alone loads none of them.
"""
