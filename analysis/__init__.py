"""Explain: reads run folders and published figures, never torch or gymnasium.

``tables`` reads folders; ``statistics``, ``curves``, ``across`` and ``convert`` compute; ``published`` and ``landmarks`` are what others
reported; ``comparisons`` pools seeds and ``summary`` puts the numbers together; ``sentences``, ``cells`` and ``charts`` say, list and
draw them; ``contents`` orders them and ``report`` writes them. Importing this package alone loads none of them.
"""
