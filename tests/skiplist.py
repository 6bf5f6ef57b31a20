"""Which tests pytest skipped, and whether each may be: `python tests/skiplist.py REPORT.xml skips.txt`.

Invariant: a skip passes only if its test id and its reason stand together on one line of the list, `id | reason`.
"""

import ast
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree


@dataclass(frozen=True)
class Skip:
    """One skipped (or expectedly failing) test; `test` is a node id or, where all of it was skipped, a module."""

    test: str
    reason: str


def skipped(report: str) -> list[Skip]:
    """The skips in a junit report that pytest wrote, in the order of the tests."""
    cases = ElementTree.fromstring(report).iter("testcase")
    return [Skip(_node_id(case), _reason(mark)) for case in cases for mark in case.findall("skipped")]


def listed(text: str) -> set[Skip]:
    """The skips that a list allows; lines that are empty or begin with # say nothing."""
    lines = [line.strip() for line in text.splitlines()]
    pairs = [line.partition(" | ") for line in lines if line and not line.startswith("#")]
    return {Skip(test.strip(), reason.strip()) for test, _, reason in pairs}


def _node_id(case: ElementTree.Element) -> str:
    module, name = case.get("classname", ""), case.get("name", "")
    return f"{module.replace('.', '/')}.py::{name}" if module else f"{name.replace('.', '/')}.py"


def _reason(mark: ElementTree.Element) -> str:
    message = mark.get("message", "")
    if message != "collection skipped":
        return message
    _, _, reason = ast.literal_eval(mark.text or "")
    return str(reason).removeprefix("Skipped: ")


def main(report: Path, allowed: Path) -> int:
    """Print every skip; 1 when one is not allowed or there is no report to read."""
    if not report.exists():
        print(f"skiplist: {report} is missing: pytest ended before it could write it")
        return 1
    found, known = skipped(report.read_text(encoding="utf-8")), listed(allowed.read_text(encoding="utf-8"))
    print(f"skipped tests: {len(found)}")
    for skip in found:
        print(f"  {'' if skip in known else 'NOT LISTED: '}{skip.test} | {skip.reason}")
    return int(not known.issuperset(found))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
