"""The method as pure functions over values: answers, votes, confidence, selection, figures, prompts.

Invariant: nothing here does input or output, reads a clock or draws unseeded; numpy is the only import from outside.
"""
