"""The arrow schema of every table a run writes; the one place where a column name is spelled as a type.

Invariant: the columns of a part are exactly one of these schemas, in this order.
"""

import pyarrow as pa

_text, _texts = pa.string(), pa.list_(pa.string())

_QUESTION = [("id", _text), ("question", _text), ("options", _texts), ("group", _text)]

LABELED = pa.schema([*_QUESTION, ("answer", _text)])
"""Labeled and test rows. `answer` is canonical; `options` is null for tasks without per-row options."""

UNLABELED = pa.schema([*_QUESTION, ("num_copies", pa.int32())])
"""Pool rows. `num_copies` counts the equal rows of the input that this one stands for."""

GOLD = pa.schema([("id", _text), ("answer", _text)])
"""Gold answers of unlabeled rows where the file has them, else null, and of the dev fold; no prompt is made from it."""

POOL_READ = pa.schema(
    [
        ("id", pa.binary(32)),
        *_QUESTION[1:],
        ("answer", _text),
        ("mapped", pa.bool_()),
        ("replaced", pa.bool_()),
        ("example", _text),
    ]
)
"""A chunk of the pool's input as read, until the pool is cut; `example` tells of the first row mapped or replaced."""

POOL_KEPT = pa.schema([("position", pa.int32()), ("num_copies", pa.int32())])
"""Which rows of a chunk of POOL_READ stay, in order, and how many rows of the input each stands for."""

EMBEDDINGS = pa.schema([("id", _text), ("embedding", pa.list_(pa.float32()))])
"""Unit vectors of the questions of a pool; made only where later rounds retrieve anew."""

DEMONSTRATIONS = pa.schema(
    [("id", _text), ("demonstration_ids", _texts), ("scores", pa.list_(pa.float32())), ("sources", _texts)]
)
"""The k nearest rows, nearest first; `scores` are cosines (of unit vectors), `sources` gold or pseudo."""

_COMPLETION = [
    ("text", _text),
    ("answer", _text),
    ("finish_reason", _text),
    ("num_prompt_tokens", pa.int32()),
    ("num_tokens", pa.int32()),
    ("mean_nll", pa.float32()),
    ("answer_nll", pa.float32()),
    ("error", _text),
]

DRAFTS = pa.schema([("id", _text), *_COMPLETION, ("num_demonstrations", pa.int32())])
"""One collaborator's answers. `text` is raw; `answer` is parsed and canonical, null if unreadable."""

JUSTIFIED = pa.schema(
    [
        ("id", _text),
        ("answers", _texts),
        ("vote", _text),
        ("vote_share", pa.float32()),
        ("vote_entropy", pa.float32()),
        *_COMPLETION,
        ("label", _text),
        ("label_source", _text),
        ("confidence", pa.float32()),
    ]
)
"""`answers`: one per collaborator in configured order, null if unreadable. The completion is the justification, null
where none was asked for. `label` is the kept answer, `label_source` justification or vote. `confidence` is H of the
label; smaller is surer."""

SELECTION = pa.schema(
    [
        ("id", _text),
        ("label", _text),
        ("confidence", pa.float32()),
        ("decision", _text),
        ("reason", _text),
    ]
)
"""Every pool row's decision; `label` is the kept answer whether accepted or not, null if unreadable."""

EXAMPLES = pa.schema(
    [
        *_QUESTION,
        ("answer", _text),
        ("source", _text),
        ("weight", pa.float32()),
        ("round", pa.int32()),
        ("confidence", pa.float32()),
    ]
)
"""What a fine-tuning sees. `source` is `gold` or `pseudo`; `round` and `confidence` (H) are the pseudo-label's."""

TOKENS = pa.schema([("id", _text), ("ids", pa.list_(pa.int32())), ("num_answer", pa.int32()), ("weight", pa.float64())])
"""EXAMPLES as a model reads them: token ids of prompt and answer, the answer being the last `num_answer` of them."""

PREDICTIONS = pa.schema([("id", _text), *_COMPLETION, ("gold", _text), ("correct", pa.bool_()), ("group", _text)])
"""Greedy zero-demonstration answers on the test rows."""

LABELS = pa.schema(
    [
        ("id", _text),
        ("question", _text),
        ("label", _text),
        ("confidence", pa.float32()),
        ("passes", pa.bool_()),
        ("why", _text),
    ]
)
"""What `semievol label` writes. `passes`: whether the label is among those whose precision the run certifies, null
where it certifies nothing; `why` says it in a sentence."""

NEAR_KEYS = pa.schema([("key", pa.uint64())])
"""Band keys of some parts' rows, row by row, until near duplicates are found."""

NEAR_DUPLICATES = pa.schema([("id", _text), ("twin_id", _text), ("twin_split", _text), ("similarity", pa.float32())])
"""Rows of one split (the part's name) that are near duplicates of a row before them: the most prior such row."""
