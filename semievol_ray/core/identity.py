"""What makes two rows the same row, and a draw that depends on the row alone.

Invariant: equal after normalisation means equal id, whatever file or position the row came from.
"""

import hashlib
import json
import unicodedata
from collections.abc import Sequence


def normalise(text: str) -> str:
    """The text in Unicode NFC with every run of white space as one space and none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def row_id(task: str, question: str, options: Sequence[str] | None) -> str:
    """The row's id: sha256, in hex, of the normalised task, question and options in order.

    They are hashed as a JSON list, so that no text can pass for a boundary; no options differ from an empty list.
    """
    parts = [normalise(task), normalise(question), None if options is None else [normalise(text) for text in options]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def sample_key(seed: int, row_id: str) -> float:
    """A number in [0, 1) fixed by seed and id: the smallest keys are a sample independent of file order."""
    digest = hashlib.sha256(f"{seed}/{row_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2.0**53
