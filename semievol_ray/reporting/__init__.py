"""Pages that people read: the shell of a page, its charts, and the sections of a run's report.

Invariant: a page is one file that asks nothing of a network and runs no script.
"""
