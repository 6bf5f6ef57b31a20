"""Tokenise: the examples of a fine-tuning as token ids, each once, by Ray Data tasks before any worker holds a device.

Invariant: what a worker learns from is the same as if it tokenised the examples itself.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from semievol_ray import storage
from semievol_ray.engines.finetune import FinetuneSpec, write_tokens
from semievol_ray.stages.cluster import map_parts

FEWEST_ROWS = 20_000
"""Fewer are tokenised by each worker itself, in about the time in which the tasks would load a tokenizer."""
MOST_FILES = 256
"""Every worker holds them all open."""


def with_tokens(
    spec: FinetuneSpec, folder: str, num_rows: int, on_file: Callable[[], None] = lambda: None
) -> FinetuneSpec:
    """The fine-tuning with its examples tokenised in files below `folder`, those made that are missing.

    on_file(): called as each is there. Raises DataError when a row is too long.
    """
    if num_rows < FEWEST_ROWS:
        return spec
    files = files_of(spec.examples)
    there = set(storage.names(folder))
    for _ in map_parts(_tokenise, [n for n in files if n not in there], spec=spec, folder=folder, files=files):
        on_file()
    return replace(spec, tokens=tuple(f"{folder}/{name}" for name in files))


def files_of(examples: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """File name -> the tables of EXAMPLES that it is made from, in order; a name says of how many files it is one."""
    num = max(1, min(len(examples), MOST_FILES))
    cuts = [len(examples) * i // num for i in range(num + 1)]
    return {f"{i:05d}-of-{num:05d}.arrow": examples[cuts[i] : cuts[i + 1]] for i in range(num)}


def _tokenise(
    item: dict[str, Any], spec: FinetuneSpec, folder: str, files: dict[str, tuple[str, ...]]
) -> dict[str, Any]:
    write_tokens(spec, files[item["part"]], f"{folder}/{item['part']}")
    return {}
