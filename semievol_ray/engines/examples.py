"""Tokenised examples as arrow files that all workers of a machine map into memory: four bytes a token, once a machine.

Invariant: an example that was stored comes back the same, token by token; only those of a batch are Python objects.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, overload

import pyarrow as pa

from semievol_ray import folders, schema, storage
from semievol_ray.engines.loss import TrainingExample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Examples(Sequence[TrainingExample]):
    """The examples of arrow batches, one after another; `num_tokens_N` and `num_answer_N` hold each one's lengths."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        import numpy as np

        self._batches = [batch for batch in batches if batch.num_rows]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self._ids = [(batch.column("ids").offsets.to_numpy(), batch.column("ids").values) for batch in self._batches]
        none = np.zeros(0, np.int32)
        self.num_tokens_N = np.concatenate([none, *(np.diff(offsets) for offsets, _ in self._ids)])
        self.num_answer_N = np.concatenate([none, *(b.column("num_answer").to_numpy() for b in self._batches)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, at: int) -> TrainingExample: ...

    @overload
    def __getitem__(self, at: slice) -> list[TrainingExample]: ...

    def __getitem__(self, at: int | slice) -> TrainingExample | list[TrainingExample]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        number = at % len(self)
        which = int(self._starts.searchsorted(number, "right")) - 1
        row, batch = number - int(self._starts[which]), self._batches[which]
        offsets, ids = self._ids[which]
        return TrainingExample(
            tuple(ids[offsets[row] : offsets[row + 1]].to_numpy().tolist()),
            batch.column("num_answer")[row].as_py(),
            batch.column("weight")[row].as_py(),
            batch.column("id")[row].as_py(),
        )


def sizes_of(examples: Sequence[TrainingExample]) -> tuple["NDArray[np.int32]", "NDArray[np.int32]"]:
    """Tokens, and answer tokens, of each example."""
    import numpy as np

    if isinstance(examples, Examples):
        return examples.num_tokens_N, examples.num_answer_N
    tokens = np.fromiter((len(e.ids) for e in examples), np.int32, len(examples))
    return tokens, np.fromiter((e.num_answer for e in examples), np.int32, len(examples))


def store(path: str, parts: Iterable[Sequence[TrainingExample]]) -> None:
    """Store the examples of parts as one file, unless it is there; one part at a time is held as objects."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema.TOKENS) as writer:
        for part in parts:
            writer.write_batch(_batch(part))
    storage.create(path, sink.getvalue().to_pybytes())


def opened(paths: Sequence[str]) -> Examples:
    """The examples of files of one folder, mapped into memory; from an object store they are fetched once a machine."""
    here = _copy(paths)
    batches: list[Any] = []
    for path in paths:
        reader = pa.ipc.open_file(pa.memory_map(f"{here}/{path.rpartition('/')[2]}"))
        batches += [reader.get_batch(number) for number in range(reader.num_record_batches)]
    return Examples(batches)


def forget(paths: Sequence[str]) -> None:
    """Delete what was fetched from an object store; who has it open goes on reading."""
    if storage.is_remote(paths[0]):
        storage.remove_folder(_copy(paths))


def _copy(paths: Sequence[str]) -> str:
    names = {path.rpartition("/")[2] for path in paths}
    return folders.local_copy(paths[0].rpartition("/")[0], lambda name: name in names)


def _batch(examples: Sequence[TrainingExample]) -> pa.RecordBatch:
    import numpy as np

    tokens, answers = sizes_of(examples)
    ids = np.fromiter((token for e in examples for token in e.ids), np.int32, int(tokens.sum()))
    offsets = np.concatenate([[0], np.cumsum(tokens)]).astype(np.int32)
    columns = {
        "id": pa.array([e.row_id for e in examples], pa.string()),
        "ids": pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids)),
        "num_answer": pa.array(answers),
        "weight": pa.array([e.weight for e in examples], pa.float64()),
    }
    return pa.record_batch([columns[name] for name in schema.TOKENS.names], schema=schema.TOKENS)
