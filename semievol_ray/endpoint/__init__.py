"""A run's models behind HTTP, as ASGI applications: the gate, OpenAI's chat completions, /v1/label; no ray in here.

Invariant: what is served is an engine of the seam and nothing else; who serves it, Ray or a test, makes no difference.
"""
