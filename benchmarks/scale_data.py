"""Pools of any number of synthetic rows, for measurements: short questions whose kind stands in brackets at the end.

Invariant: row i of a stem is the same on every machine, and no two rows of one stem are equal.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

KINDS = ("person", "animal", "plant", "food", "artifact", "body", "substance", "location", "communication", "time")
_SHAPES = ("small", "tall", "hollow", "bright", "rough", "common", "narrow", "heavy")
_PLACES = ("northern woods", "old harbour towns", "dry river beds", "open markets", "high meadows", "quiet workshops")
_LINES_AT_ONCE = 10_000


def pool_rows(num_rows: int, stem: str = "thing") -> Iterator[tuple[str, str]]:
    """(question, answer) of `num_rows` rows of about 120 characters; the scripted engine can read the answer."""
    for i in range(num_rows):
        mixed = i * 2_654_435_761 % 2**32
        shape, place = _SHAPES[mixed % len(_SHAPES)], _PLACES[mixed // 8 % len(_PLACES)]
        answer = KINDS[mixed // 64 % len(KINDS)]
        yield (
            f"the {stem} number {i}, {shape} and known by that name, which people have long met with in the {place} "
            f"of the country [{answer}]",
            answer,
        )


def write_pool_file(path: str, num_rows: int, *, answers: bool = False, stem: str = "thing") -> None:
    """Write a .jsonl or .csv file of `pool_rows`, with their answers if asked; constant memory, any number of rows."""
    rows = pool_rows(num_rows, stem)
    with Path(path).open("w", encoding="utf-8") as file:
        if path.endswith(".csv"):
            file.write("question,answer\n" if answers else "question\n")
        while block := list(islice(rows, _LINES_AT_ONCE)):
            file.writelines(_line(path, question, answer if answers else None) for question, answer in block)


def _line(path: str, question: str, answer: str | None) -> str:
    if path.endswith(".csv"):
        return f'"{question}"\n' if answer is None else f'"{question}",{answer}\n'
    record = {"question": question} if answer is None else {"question": question, "answer": answer}
    return json.dumps(record) + "\n"
