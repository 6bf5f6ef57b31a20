"""Rows of Hugging Face data sets, named hf://org/name[@revision][:config]/split, streamed through `datasets`.

Invariant: no code out of a data set is run, and nothing is downloaded but the rows that are read.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from semievol_ray.errors import DataError, MissingExtraError

SCHEME = "hf://"


def is_hub(path: str) -> bool:
    """Whether a path names a data set and not a file."""
    return path.startswith(SCHEME)


def hub_rows(path: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(number from 1, row) of a split; names of classes stand in place of their numbers. Raises DataError.

    hf:///folder[:config]/split reads a folder of data files, or one that `save_to_disk` wrote.
    """
    name, revision, config, split = _parts(path)
    datasets = _datasets()
    try:
        rows = _opened(datasets, name, revision, config, split)
        classes = {c: f for c, f in (rows.features or {}).items() if isinstance(f, datasets.ClassLabel)}
        for number, row in enumerate(rows, start=1):
            named = {c: f.int2str(row[c]) for c, f in classes.items() if row.get(c) not in (None, -1)}
            yield number, {**row, **named}
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"{path} cannot be read: {text[0]} Check the names, `huggingface-cli login` for a data set behind a gate, "
            "and the network; or download the files and name them here."
        ) from error


def _opened(datasets: Any, name: str, revision: str | None, config: str | None, split: str) -> Any:
    if Path(name, "dataset_dict.json").is_file():
        return datasets.load_from_disk(name)[split]
    if Path(name, "state.json").is_file():
        return datasets.load_from_disk(name)
    return datasets.load_dataset(name, config, split=split, revision=revision, streaming=True)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("hf:// data needs the datasets library: pip install 'datasets>=5.2,<6'") from error
    datasets.disable_progress_bars()
    return datasets


def _parts(path: str) -> tuple[str, str | None, str | None, str]:
    source, _, split = path.removeprefix(SCHEME).rpartition("/")
    source, _, config = source.partition(":")
    name, _, revision = source.partition("@")
    if not split or not (name.startswith("/") or [bool(part) for part in name.split("/")] == [True, True]):
        raise DataError(
            f"{path}: a data set is written hf://org/name[@revision][:config]/split, such as hf://o/n/train"
        )
    return name, revision or None, config or None, split
