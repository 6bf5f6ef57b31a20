"""Ties at tau, broken by vote share and then by id, without their ids in the driver.

Invariant: of each tied row the driver holds its share and the first eight bytes of its id, twelve bytes in all; whole
ids come only of the rows that these leave beside the cut.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from semievol_ray.core.selection import Cut
from semievol_ray.stages.cluster import map_parts
from semievol_ray.stages.columns import floats, known
from semievol_ray.stages.select import Answered, Scope, keyed

NUM_BYTES = 8
Shares = NDArray[np.float32]
Prefixes = NDArray[np.uint64]
Edge = tuple[float, float, int]
"""tau, vote share and id prefix of the last row that is kept."""


def break_ties(answered: Answered, scope: Scope, cuts: Mapping[str, Cut], rooms: Mapping[str, int]) -> dict[str, Cut]:
    """Each key's cut, ended behind the first `rooms[key]` of the rows with H = tau; what `exact_cut` says of them."""
    taus = {key: cut.tau for key, cut in cuts.items()}
    found = {key: _edge(taus[key], *tied, rooms[key]) for key, tied in _tied(answered, scope, taus).items()}
    edges = {key: edge for key, (edge, _) in found.items()}
    ids: dict[str, list[str]] = {key: [] for key in cuts}
    for row in map_parts(_ids_part, answered.justified.parts, answered=answered, scope=scope, edges=edges):
        for key, row_id in zip(row["keys"], row["ids"], strict=True):
            ids[key].append(row_id)
    return {key: Cut(edge[0], edge[1], sorted(ids[key])[left - 1]) for key, (edge, left) in found.items()}


def _edge(tau: float, shares_T: Shares, prefixes_T: Prefixes, room: int) -> tuple[Edge, int]:
    """Where the first `room` of the tied rows end, and how many rows with that edge are among them."""
    share = -np.partition(-shares_T, room - 1)[room - 1]
    room -= int((shares_T > share).sum())
    here_T = prefixes_T[shares_T == share]
    prefix = np.partition(here_T, room - 1)[room - 1]
    return (tau, float(share), int(prefix)), room - int((here_T < prefix).sum())


def _tied(answered: Answered, scope: Scope, taus: Mapping[str, float]) -> dict[str, tuple[Shares, Prefixes]]:
    """Vote shares and id prefixes of the rows whose H is their key's tau."""
    gathered: dict[str, tuple[list[Shares], list[Prefixes]]] = {key: ([], []) for key in taus}
    for row in map_parts(_tied_part, answered.justified.parts, answered=answered, scope=scope, taus=taus):
        ends = np.cumsum(np.asarray(row["lengths"], dtype=np.int64))[:-1]
        shares = np.split(np.frombuffer(row["shares"], dtype=np.float32), ends)
        prefixes = np.split(np.frombuffer(row["prefixes"], dtype=np.uint64), ends)
        for key, of_key, begin in zip(row["keys"], shares, prefixes, strict=bool(row["keys"])):
            gathered[key][0].append(of_key)
            gathered[key][1].append(begin)
    return {key: (np.concatenate(shares), np.concatenate(prefixes)) for key, (shares, prefixes) in gathered.items()}


def _tied_part(item: dict[str, Any], answered: Answered, scope: Scope, taus: Mapping[str, float]) -> dict[str, Any]:
    table, codes, values = _at_tau(answered, item["part"], scope, taus)
    order = np.argsort(codes, kind="stable")
    found, lengths = np.unique(codes, return_counts=True)
    return {
        "keys": [values[code] for code in found],
        "lengths": lengths.tolist(),
        "shares": floats(table.column("vote_share"))[order].tobytes(),
        "prefixes": _prefixes(table.column("id"))[order].tobytes(),
    }


def _ids_part(item: dict[str, Any], answered: Answered, scope: Scope, edges: Mapping[str, Edge]) -> dict[str, Any]:
    """The ids of the rows at their key's edge."""
    taus = {key: tau for key, (tau, _, _) in edges.items()}
    table, codes, values = _at_tau(answered, item["part"], scope, taus)
    shares_T, prefixes_T = floats(table.column("vote_share")), _prefixes(table.column("id"))
    at = [edges[values[code]] for code in codes]
    here = [i for i, (_, share, prefix) in enumerate(at) if shares_T[i] == share and int(prefixes_T[i]) == prefix]
    return {"keys": [values[codes[i]] for i in here], "ids": [table.column("id")[i].as_py() for i in here]}


def _at_tau(
    answered: Answered, part: str, scope: Scope, taus: Mapping[str, float]
) -> tuple[pa.Table, NDArray[np.int64], Sequence[str]]:
    """The rows of a part whose H is their key's tau, and their keys as codes of the texts beside them."""
    table, keys = keyed(answered, part, scope, ("id", "vote_share", "confidence"))
    column = table.column("confidence")
    taus_K = np.array([taus.get(key, np.nan) for key in keys.values] or [np.nan], dtype=np.float32)
    tied_R = known(column) & (floats(column) == taus_K[keys.codes])
    return table.filter(pa.array(tied_R)), keys.codes[tied_R], keys.values


def _prefixes(ids: pa.ChunkedArray) -> Prefixes:
    """The first bytes of each id as a number: in the order of the ids, equal for ids that begin alike."""
    texts = [text.encode()[:NUM_BYTES].ljust(NUM_BYTES, b"\0") for text in ids.to_pylist()]
    return np.frombuffer(b"".join(texts), dtype=">u8").astype(np.uint64)
