"""Arrow columns as what core computes with: float arrays, masks, and codes of the different texts.

Invariant: entry i of every array belongs to row i of the column.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from semievol_ray.core.deciding import Coded


def coded(column: pa.ChunkedArray) -> Coded:
    """A column of texts as codes; -1 where it is null."""
    encoded = column.combine_chunks().dictionary_encode()
    codes_R = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return Coded(codes_R, encoded.dictionary.to_pylist())


def floats(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A float32 column as an array, 0 where it is null."""
    return np.asarray(column.fill_null(0.0).to_numpy(), dtype=np.float32)


def known(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where a column is not null."""
    return np.asarray(column.is_valid().to_numpy(), dtype=np.bool_)
