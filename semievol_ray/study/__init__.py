"""`semievol study`: variants of a configuration over seeds, and one table of what they are worth.

Invariant: a study only decides what to run; a run of it is a run like any other.
"""
