"""The page about a run: complete, self-contained, escaped, and its numbers those that the run stored."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from semievol_ray import schema
from semievol_ray.errors import UserError
from semievol_ray.report import write_report
from semievol_ray.reporting import page, samples
from semievol_ray.reporting.setup import HIDDEN, redacted
from semievol_ray.runs import Run
from tests.conftest import ScriptedRun

SECTIONS = [
    "accuracy", "decisions", "confidence", "reliability", "agreement", "what-if", "balance", "classes", "confusion",
    "training", "cost", "plan", "rows", "setup",
]  # fmt: skip
HOSTILE = "what is </pre><script>alert('x')</script> & \"this\"?"


class Page(HTMLParser):
    """What is in an HTML document: tags with attributes, text by section, tables as rows of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self._section, self._table, self._cell = "", "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "section":
            self._section = str(found["id"])
        elif tag == "table":
            self._table = str(found["aria-label"])
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.texts[self._section] = self.texts.get(self._section, "") + data
        if self._cell:
            self.tables[self._table][-1][-1] += data

    def ids(self) -> list[str]:
        return [str(found["id"]) for _, found in self.tags if "id" in found]

    def table(self, beginning: str) -> list[list[str]]:
        """The one table whose name begins so."""
        return next(rows for name, rows in self.tables.items() if name.startswith(beginning))


def read(root: Path | str) -> Page:
    return Page(Path(write_report(str(root))).read_text(encoding="utf-8"))


def metrics(root: Path, step: str) -> dict[str, Any]:
    return dict(json.loads((root / step / "step.json").read_text())["committed"]["metrics"])


def change_metrics(root: Path, step: str, change: Callable[[dict[str, Any]], object]) -> None:
    path = root / step / "step.json"
    record = json.loads(path.read_text())
    change(record["committed"]["metrics"])
    path.write_text(json.dumps(record))


@pytest.fixture(scope="module")
def found(scripted_run: ScriptedRun, tmp_path_factory: pytest.TempPathFactory) -> Page:
    out = tmp_path_factory.mktemp("report") / "page.html"
    assert write_report(str(scripted_run.root), str(out)) == str(out)
    return Page(out.read_text(encoding="utf-8"))


def test_page_of_a_finished_run_has_every_section_and_none_is_empty(found: Page) -> None:
    assert [f["id"] for tag, f in found.tags if tag == "section"] == SECTIONS
    assert all(len(found.texts[section].split()) > 5 for section in SECTIONS)
    assert "Not recorded" not in "".join(found.texts.values())


def test_page_asks_nothing_of_a_network_and_runs_no_script(found: Page) -> None:
    policy = next(f["content"] for tag, f in found.tags if f.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert not {"script", "link", "img", "iframe", "object", "base"} & {tag for tag, _ in found.tags}
    for _, attributes in found.tags:
        assert not {name for name in attributes if name.startswith("on")} | ({"src", "srcset"} & set(attributes))
        assert str(attributes.get("href", "#")).startswith("#")
    style = (Path(page.__file__).parent / "page.css").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?:", style)


def test_every_reference_inside_the_page_leads_to_one_place(found: Page) -> None:
    ids = found.ids()
    assert len(ids) == len(set(ids))
    for _, attributes in found.tags:
        targets = [*str(attributes.get("aria-labelledby", "")).split(), str(attributes.get("href", "#"))[1:]]
        assert {target for target in targets if target} <= set(ids)


def test_every_chart_says_in_words_what_it_shows(found: Page) -> None:
    charts = [f for tag, f in found.tags if tag == "svg" and f.get("role") == "img"]
    assert len(charts) >= 6
    assert sum(tag == "desc" for tag, _ in found.tags) == len(charts)
    assert all(f.get("aria-hidden") == "true" for tag, f in found.tags if tag == "svg" and f not in charts)


def test_accuracies_are_those_of_the_evaluations(found: Page, scripted_run: ScriptedRun) -> None:
    _, *rows = found.table("Test split")
    steps = ["base/evaluate", "rounds/0000/evaluate", "rounds/0001/evaluate"]
    for row, step in zip(rows, steps, strict=True):
        m = metrics(scripted_run.root, step)
        assert row[1] == f"{100 * m['accuracy']:.1f}%"
        assert row[2] == f"{100 * m['accuracy_low']:.1f} to {100 * m['accuracy_high']:.1f}%"
        assert row[3] == str(m["num_rows"])
    last = metrics(scripted_run.root, steps[-1])["accuracy"]
    assert f"SemiEvol answers {100 * last:.1f}% of the test questions right" in found.texts[""]


def test_decisions_and_what_if_are_those_of_the_selection(found: Page, scripted_run: ScriptedRun) -> None:
    m = metrics(scripted_run.root, "rounds/0001/select")
    shown = [row[1] for row in found.table("Decisions of round 1")[1:]]
    assert shown == [str(d["rows"]) for d in m["decisions"]]
    what_if = found.table("What the percentile rule keeps")[1:]
    assert [row[2] for row in what_if] == [str(row["rows"]) for row in m["audit"]["what_if"]]
    half = m["audit"]["what_if"][4]
    assert (half["tau"], half["rows"]) == (m["tau"], m["num_accepted"])
    assert what_if[4][3].startswith(f"{100 * half['gold']['value']:.1f}%")


def test_agreement_names_the_collaborators_and_counts_their_answers(found: Page, scripted_run: ScriptedRun) -> None:
    c = metrics(scripted_run.root, "rounds/0001/select")["audit"]["collaborators"]
    matrix = found.table("Share of round 1's")
    assert matrix[0][1:] == [row[0] for row in matrix[1:]] == c["names"] == ["base_1", "base_3", "warm_0", "warm_3"]
    expected = [[f"{100 * n / c['num_rows']:.0f}%" for n in row] for row in c["agreement"]]
    assert [row[1:] for row in matrix[1:]] == expected


def test_confusion_of_the_test_split_adds_up_to_its_rows(found: Page, scripted_run: ScriptedRun) -> None:
    rows = found.table("SemiEvol: gold answers down")[1:]
    total = sum(int(cell) for row in rows for cell in row[1:] if cell.isdigit())
    assert total == metrics(scripted_run.root, "rounds/0001/evaluate")["num_rows"]


def test_sampled_rows_of_each_decision_tell_their_story(found: Page) -> None:
    told = found.texts["rows"]
    assert "demonstrations, nearest first" in told
    assert "decision: accepted" in told
    assert "decision: engine_error" in told
    assert "max_model_len" in told


def test_page_lies_in_the_run_unless_it_is_told_where(copied_run: Path) -> None:
    assert write_report(str(copied_run)) == f"{copied_run}/report.html"
    assert (copied_run / "report.html").read_bytes().startswith(b"<!doctype html>")


def test_prefix_cache_of_sessions_stands_among_the_costs_where_an_engine_told_of_it(copied_run: Path) -> None:
    assert "Prefix cache of each session" not in " ".join(read(copied_run).tables)
    told = {"time": "2026-01-01T10:00:00.000000+00:00", "kind": "session_ended", "fence": 1, "session": "round-1 base"}
    with (copied_run / "events.jsonl").open("a") as file:
        file.writelines(json.dumps({**told, "num_looked_up": 1000, "num_found": n}) + "\n" for n in (100, 400))
    _, row = read(copied_run).table("Prefix cache of each session")
    assert [cell.strip() for cell in row] == ["round-1 base", "2,000", "500", "25.0%"]


def test_unfinished_run_says_what_is_missing_where_it_would_stand(copied_run: Path) -> None:
    for gone in ("base/evaluate", "rounds/0000/evaluate", "rounds/0001/evaluate", "rounds/0001/select"):
        shutil.rmtree(copied_run / gone)
    manifest = json.loads((copied_run / "manifest.json").read_text())
    manifest.pop("final")
    (copied_run / "manifest.json").write_text(json.dumps(manifest))
    found = read(copied_run)
    assert [f["id"] for tag, f in found.tags if tag == "section"] == SECTIONS
    assert "has been evaluated on the test split yet" in found.texts["accuracy"]
    for section in ("decisions", "confidence", "reliability", "agreement", "what-if", "balance", "rows"):
        assert "No round of this run has selected pseudo-labels yet" in found.texts[section]
    assert "1 of 1 rounds trained" in found.texts[""]


def test_run_from_before_the_audit_says_that_none_was_recorded(copied_run: Path) -> None:
    change_metrics(copied_run, "rounds/0001/select", lambda m: m.pop("audit"))
    found = read(copied_run)
    for section in ("confidence", "reliability", "agreement", "what-if", "balance"):
        assert "Not recorded" in found.texts[section]
    assert found.table("Decisions of round 1")


def test_pool_without_gold_says_why_nothing_is_judged(copied_run: Path) -> None:
    def forget(m: dict[str, Any]) -> None:
        m["audit"]["gold"] = m["audit"]["confusion"] = None
        for row in m["audit"]["what_if"]:
            row["gold"] = None
        for row in m["decisions"]:
            row |= {"judged": 0, "precision": None}

    change_metrics(copied_run, "rounds/0001/select", forget)
    found = read(copied_run)
    assert "no dev fold" in found.texts["reliability"]
    assert "no gold answers" in found.texts["decisions"]
    assert len(found.table("What the percentile rule keeps")[1]) == 3


def test_calibrated_selection_shows_what_it_stands_on(copied_run: Path) -> None:
    certificate = {
        "rule": "precision_bound",
        "num_dev": 80,
        "lower_bound": 0.951,
        "assumption": "rows are exchangeable",
    }
    change_metrics(copied_run, "rounds/0001/select", lambda m: m["cuts"].update(certificate=certificate))
    told = read(copied_run).texts["decisions"]
    assert "lower bound 0.951" in told
    assert "It holds as far as rows are exchangeable" in told


def test_questions_are_shown_as_text_and_never_as_markup(tmp_path: Path) -> None:
    root = str(tmp_path / "run")
    asked = {"id": "r0", "question": HOSTILE, "num_copies": 1}
    selected = {"id": "r0", "label": HOSTILE, "decision": "accepted", "reason": HOSTILE}
    decision = {"decision": "accepted", "rows": 1, "share": 1.0, "judged": 0, "precision": None}
    told = {"tau": 0.5, "ties_points": 0, "num_answered": 1, "coverage": 1.0, "decisions": [decision]}
    told |= {"precision_all": None, "precision_accepted": None, "read": 1}
    with Run.open(root, {"name": HOSTILE, "config": {"model": HOSTILE, "task": HOSTILE, "data": {}}}) as run:
        for name, columns, row in (
            ("data/unlabeled", schema.UNLABELED, asked),
            ("rounds/0001/select", schema.SELECTION, selected),
        ):
            step = run.step(name, settings={}, inputs={}, parts=["part-00000"])
            table = pa.Table.from_pylist([dict.fromkeys(columns.names) | row], schema=columns)
            assert step.commit_part("part-00000", table)
            run.commit(step, told)
    text = Path(write_report(root)).read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert") >= 3


def test_run_with_an_unknown_configuration_still_has_a_page(copied_run: Path) -> None:
    manifest = json.loads((copied_run / "manifest.json").read_text())
    manifest["config"]["method"]["theta"] = 0.5
    (copied_run / "manifest.json").write_text(json.dumps(manifest))
    found = read(copied_run)
    assert "Not shown" in found.texts["rows"]
    assert found.table("Test split")


def test_only_a_bounded_number_of_parts_is_read(copied_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_PARTS", 1)
    parts = sorted((copied_run / "rounds/0001").rglob("part-*.parquet"))
    assert {p.stem for p in parts} > {"part-00000"}
    for path in [*parts, *(copied_run / "data/unlabeled").glob("part-*"), *(copied_run / "data/gold").glob("part-*")]:
        if path.stem != "part-00000" and "examples" not in path.parts:
            path.unlink()
    told = read(copied_run).texts["rows"]
    assert "from 1 of " in told
    assert "cannot be read" not in told
    assert "decision: accepted" in told


def test_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run directory"):
        write_report(str(tmp_path))


def test_secrets_and_logins_are_hidden_and_names_of_variables_are_not() -> None:
    shown = redacted(
        {
            "endpoint": {"url": "https://me:secret@example.org/v1", "api_key_env": "MY_KEY"},
            "engine_kwargs": {"hf_token": "hf_abc", "max_num_batched_tokens": 5, "keys": [{"password": "x"}]},
            "max_tokens": 8,
        }
    )
    assert shown == {
        "endpoint": {"url": f"https://{HIDDEN}@example.org/v1", "api_key_env": "MY_KEY"},
        "engine_kwargs": {"hf_token": HIDDEN, "max_num_batched_tokens": 5, "keys": [{"password": HIDDEN}]},
        "max_tokens": 8,
    }


def test_report_loads_nothing_heavy() -> None:
    code = "import sys, semievol_ray.report; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"ray", "torch", "transformers", "vllm", "pandas", "faiss", "rich"} & set(done.stdout.split()) == set()
