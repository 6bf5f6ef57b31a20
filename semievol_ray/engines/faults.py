"""What an engine's failure was: a shortage of memory, another end of the engine, or no end of it at all.

Invariant: a failure is judged by its text alone, for vLLM's core dies in another process and leaves only what it said.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from semievol_ray.errors import EngineDiedError

Shortage = Literal["memory", "cache", "share"]
_CACHE = re.compile(r"No available memory for the cache blocks|larger than the available KV cache memory")
_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation"
    r"|DefaultCPUAllocator: (?:can't|not enough)"
)
_SHARE = re.compile(r"less than desired GPU memory utilization")
_DEVICE = re.compile(r"CUDA error|cudaError|CUBLAS_STATUS|CUDNN_STATUS|NCCL error|HIP error")
_ERROR_LINE = re.compile(r"^(?:.*?\s)??((?:[\w.]*Error|[\w.]*Exception): .+)$", re.MULTILINE)
_MOST_BYTES, _MOST_CHARACTERS = 200_000, 400


def shortage(text: str) -> Shortage | None:
    """Which memory was short: the device's, what is left for the KV cache, or the share of the device that was asked
    for, others having it, before anything was loaded; None for another text.
    """
    if _CACHE.search(text):
        return "cache"
    if _SHARE.search(text):
        return "share"
    return "memory" if _MEMORY.search(text) else None


def translated(error: Exception) -> Exception:
    """EngineDiedError where a foreign error means that no later request can be answered; else the error itself."""
    text = described(error)
    if shortage(text) or _DEVICE.search(text):
        dead = EngineDiedError(f"the engine died: {text}")
        dead.__cause__ = error
        return dead
    return error


def described(error: BaseException) -> str:
    """Kind and message of an error, and of what caused it."""
    told, seen = list[str](), error
    while seen is not None and len(told) < 4:
        told.append(f"{type(seen).__name__}: {seen}".strip())
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)  # type: ignore[assignment]
    return "; caused by ".join(told)


def reason(error: BaseException, said: str) -> str:
    """One line on why an engine ended: the shortage where its error or its log tells of one, else the last error."""
    own = described(error)
    if shortage(own):
        return _line(own)
    lines = [line for line in _ERROR_LINE.findall(said) if "EngineDeadError" not in line]
    short = [line for line in lines if shortage(line)]
    return _line(short[-1] if short else f"{own}; {lines[-1]}" if lines else own)


def log_marks() -> Mapping[str, int]:
    """Where the files end into which this process and its children write."""
    marks = {}
    for number in (1, 2):
        try:
            if stat.S_ISREG(os.fstat(number).st_mode):
                marks[str(Path(f"/proc/self/fd/{number}").readlink())] = os.fstat(number).st_size
        except OSError:
            continue
    return marks


def said_since(marks: Mapping[str, int]) -> str:
    """What was written into those files since, at most their last 200 kB."""
    texts = []
    for path, begin in marks.items():
        try:
            with Path(path).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(begin, size - _MOST_BYTES))
                texts.append(file.read().decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(texts)


def _line(text: str) -> str:
    return " ".join(text.split())[:_MOST_CHARACTERS]
