"""`semievol explain`: everything that happened to one row of the pool, round by round, in words.

Invariant: nothing is computed anew; every figure is the one the run stored. Of parts without the row only ids are read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray import schema, storage, tables
from semievol_ray.cleaned import PARTS
from semievol_ray.configfile import parse
from semievol_ray.core.selection import Decision
from semievol_ray.errors import StorageError, UserError
from semievol_ray.runs import Step, read_manifest
from semievol_ray.steps import STEP_FILE
from semievol_ray.tasks import Task

_NUM_LISTED = 5
CLEANED_TEXT = "(text cleaned)"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """One row of the pool: its full id and the part it lies in, the same in every step."""

    id: str
    part: str


def explain(root: str, prefix: str) -> str:
    """The story of the one row whose id begins with `prefix`. Raises UserError when there is none, or several."""
    task = parse(read_manifest(root)["config"], f"{root}/manifest.json").resolve_task()
    return explain_found(root, find_row(root, prefix), task)


def explain_found(root: str, found: Found, task: Task) -> str:
    """The story of a row whose part is known; only its own part of each step is read."""
    gold = _row(root, "data/gold", found, schema.GOLD)
    sections = [_question(root, found, gold, task)]
    for number in storage.names(f"{root}/rounds"):
        if number != "0000":
            sections += _round(root, f"rounds/{number}", found, gold, task)
    return "\n\n".join(sections)


def find_row(root: str, prefix: str) -> Found:
    """Where the row lies whose id begins with `prefix`; UserError when it is unknown, ambiguous or was dropped."""
    wanted = prefix.strip().lower()
    found = list(_matches(root, "data/unlabeled", wanted))
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(f.id[: len(wanted) + 8] for f in found[:_NUM_LISTED]) + ", ..." * (len(found) > _NUM_LISTED)
        raise UserError(f"{prefix!r} begins the ids of {len(found)} rows ({some}). Give more of the id.")
    for split in ("test", "labeled", "dev", "validation"):
        if list(_matches(root, f"data/{split}", wanted)):
            raise UserError(
                f"{prefix!r} is a row of the {split} split. Such a row is dropped from the unlabeled pool, so no "
                "collaborator answered it and there is nothing to explain."
            )
    raise UserError(
        f"no row of {root} has an id that begins with {prefix!r}. Ids stand in the column id of "
        f"{root}/data/unlabeled/*.parquet; a row that data.unlabeled.sample did not draw has none there."
    )


def _matches(root: str, name: str, prefix: str) -> Iterator[Found]:
    step = _step(root, name)
    for part in step.parts if step else ():
        if step and step.has_part(part):
            yield from (Found(i, part) for i in _ids(step.part_path(part)) if i.startswith(prefix))


def _ids(path: str) -> list[str]:
    with storage.open_read(path) as file:
        try:
            return [str(i) for i in pq.ParquetFile(file).read(columns=["id"]).column("id").to_pylist()]
        except (pa.ArrowException, OSError) as error:
            raise StorageError(
                f"{path} is damaged: {error}. `semievol verify RUN --repair` lets a run make it again."
            ) from error


def _step(root: str, name: str) -> Step | None:
    path = f"{root}/{name}"
    if not storage.exists(f"{path}/{STEP_FILE}"):
        return None
    return Step(path, name, tuple(Step(path, name, ()).record()["parts"]))


def _row(root: str, name: str, found: Found, columns: pa.Schema) -> Row | None:
    """The row as a step has it; None when the step has not come to it yet."""
    step = _step(root, name)
    if step is None or not step.has_part(found.part):
        return None
    return next((row for row in step.read_part(found.part, columns).to_pylist() if row["id"] == found.id), None)


def _question(root: str, found: Found, gold: Row | None, task: Task) -> str:
    row = _row(root, "data/unlabeled", found, schema.UNLABELED)
    assert row is not None, found
    lines = [f"row {row['id']}", tables.paragraph(task.render_question(row["question"], row["options"]), "  ")]
    lines += [f"  group: {row['group']}"] if row["group"] else []
    lines += [f"  stands for {row['num_copies']} equal rows"] if row["num_copies"] > 1 else []
    answer = gold["answer"] if gold else None
    return "\n".join([*lines, f"  gold answer: {'none known' if answer is None else answer}"])


def _round(root: str, folder: str, found: Found, gold: Row | None, task: Task) -> list[str]:
    name = f"--- round {int(folder.split('/')[1])} ---"
    if _step(root, f"{folder}/pool") and _row(root, f"{folder}/pool", found, schema.UNLABELED) is None:
        return [name, "not asked again: an earlier round accepted the row, or a person labeled it"]
    justified = _row(root, f"{folder}/justify", found, schema.JUSTIFIED)
    sections = [_demonstrations(root, folder, found), _drafts(root, folder, found, justified)]
    if justified:
        sections += [_vote(justified), _justification(justified)]
    sections += [_decision(root, folder, found, justified, gold, task)]
    return [name, *(section for section in sections if section)]


def _demonstrations(root: str, folder: str, found: Found) -> str:
    if _cleaned(root, f"{folder}/retrieve"):
        return "demonstrations: cleaned"
    own = _row(root, f"{folder}/retrieve", found, schema.DEMONSTRATIONS)
    shown = own or _row(root, "rounds/0001/retrieve", found, schema.DEMONSTRATIONS)
    if not shown:
        return ""
    examples = _examples(root, folder, shown["demonstration_ids"])
    lines = []
    for i, score, source in zip(shown["demonstration_ids"], shown["scores"], shown["sources"], strict=True):
        said = f"gold answer {examples[i]['answer']}"
        if source != "gold":
            said = f"pseudo-label {examples[i]['answer']} of round {examples[i]['round']}"
        lines += [f"  cosine {score:.3f}, {said}", tables.paragraph(examples[i]["question"], "    | ")]
    return "\n".join(["demonstrations, nearest first", *lines])


def _examples(root: str, folder: str, ids: list[str]) -> dict[str, Row]:
    """The EXAMPLES with these ids among those that a round could show."""
    step = _step(root, f"{folder}/shown") or _step(root, "rounds/0000/examples")
    assert step is not None
    tables_read = (step.read_part(part, schema.EXAMPLES) for part in step.parts)
    return {row["id"]: row for table in tables_read for row in table.to_pylist() if row["id"] in ids}


def _cleaned(root: str, name: str) -> bool:
    """Whether the parts of a step were removed by `keep`."""
    step = _step(root, name)
    return step is not None and step.removed() == PARTS


def _drafts(root: str, folder: str, found: Found, justified: Row | None) -> str:
    lines = []
    for index, name in enumerate(_collaborators(root, folder)):
        if _cleaned(root, f"{folder}/drafts/{name}"):
            answer = justified["answers"][index] if justified else None
            lines += [f"  {name}: {'unreadable or failed' if answer is None else answer}", f"    {CLEANED_TEXT}"]
            continue
        draft = _row(root, f"{folder}/drafts/{name}", found, schema.DRAFTS)
        shown = f" (demonstrations: {draft['num_demonstrations']})" if draft and draft["num_demonstrations"] else ""
        lines += [f"  {name}{shown}: {_answer(draft)}", *_raw(draft)]
    return "\n".join(["collaborators", *lines]) if lines else ""


def _collaborators(root: str, folder: str) -> list[str]:
    """Names in configured order once the justification has begun, else in alphabetical order."""
    justify = _step(root, f"{folder}/justify")
    inputs = justify.record()["inputs"] if justify else {}
    ordered = [name.removeprefix("drafts/") for name in inputs if name.startswith("drafts/")]
    return ordered or storage.names(f"{root}/{folder}/drafts")


def _answer(completion: Row | None) -> str:
    if completion is None:
        return "has not answered yet"
    if completion["error"] is not None:
        return "failed"
    cut = ", cut off at max_tokens" if completion["finish_reason"] == "length" else ""
    return (completion["answer"] if completion["answer"] is not None else "unreadable") + cut


def _raw(completion: Row | None) -> list[str]:
    if completion is None:
        return []
    text = completion["text"] if completion["error"] is None else completion["error"]
    return [f"    {CLEANED_TEXT}" if text is None else tables.paragraph(text, "    | ")]


def _vote(row: Row) -> str:
    num, share = len(row["answers"]), f"{row['vote_share']:.2f}"
    if row["vote"] is None:
        return f"vote: none (a tie, or nothing readable among {num} drafts); entropy {row['vote_entropy']:.3f}"
    return f"vote: {row['vote']}; share {share} of {num} drafts, entropy {row['vote_entropy']:.3f}"


def _justification(row: Row) -> str:
    if row["finish_reason"] is None and row["error"] is None:
        kept = "the vote is kept" if row["label_source"] == "vote" else "and there is no vote to keep"
        return f"justification: none asked for; {kept}"
    return "\n".join([f"justification: {_answer(row)}", *_raw(row)])


def _decision(root: str, folder: str, found: Found, justified: Row | None, gold: Row | None, task: Task) -> str:
    selected = _row(root, f"{folder}/select", found, schema.SELECTION)
    if selected is None:
        return "decision: none yet; " + ("the round is not selected" if justified else "the row is not justified")
    lines = [f"decision: {selected['decision']}", tables.paragraph(str(selected["reason"]), "  ")]
    lines += [_against_tau(root, folder, selected)] if selected["confidence"] is not None else []
    if selected["label"] is not None and gold and gold["answer"] is not None:
        lines += [f"  label {selected['label']}{_judged(selected['label'], gold['answer'], task)}"]
    elif selected["decision"] == Decision.ACCEPTED.value:
        lines += [f"  label: {selected['label']}"]
    return "\n".join(lines)


def _judged(label: str, answer: str, task: Task) -> str:
    """Whether a label is right; texts that agree by their embeddings are not embedded here."""
    if not task.needs_vectors or task.equal(label, answer):
        return f" is {'right' if task.equal(label, answer) else 'wrong'}: the gold answer is {answer}"
    return f"; the gold answer is {answer}, and the round's figures say by similarity which labels are right"


def _against_tau(root: str, folder: str, selected: Row) -> str:
    select, justify = _step(root, f"{folder}/select"), _step(root, f"{folder}/justify")
    committed = (select.committed() if select else None) or {"metrics": {}}
    tau = committed["metrics"].get("tau")
    estimator = justify.record()["settings"]["confidence"] if justify else "confidence"
    shown = f"  H ({estimator}) {selected['confidence']:.6f}"
    return shown if tau is None else f"{shown}, tau {tau:.6f}"
