"""`semievol plan`: what a run will take, from a pilot or from the model's shape, and what it took then.

Invariant: a plan is made before the run and never changed by it.
"""
