"""The steps of a round: plain functions from settings and committed inputs to a folder of parts.

Invariant: what a step is given is exactly what its output depends on.
"""
