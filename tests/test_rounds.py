"""Several rounds of a run: what is frozen, what is left, what is held out, and what stops them or goes on."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from semievol_ray import cli, driver, schema
from semievol_ray.check import planned_steps
from semievol_ray.clean import clean_run
from semievol_ray.configfile import parse
from semievol_ray.core.selection import num_kept
from semievol_ray.errors import DriftError
from semievol_ray.explain import explain
from semievol_ray.runs import read_events, read_manifest, read_steps
from semievol_ray.stages.pools import dev_slices
from semievol_ray.status import status
from semievol_ray.summary import SEMIEVOL, summarise
from tests.rundirs import changed, do_run, ids_of, metrics_of, rows_of, run_tree, stamps_under, step_at

NUM_POOL, NUM_DEV, NUM_VALIDATION, NUM_ROUNDS = 48, 6, 4, 3
ROUNDS = range(1, NUM_ROUNDS + 1)


@dataclass(frozen=True)
class Rounds:
    """A finished run of several rounds, its configuration, and which round it handed over."""

    root: Path
    tree: dict[str, Any]
    best: int


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory, small_ray: None) -> Rounds:  # noqa: ARG001
    """On a real Ray; not to be written to."""
    folder = tmp_path_factory.mktemp("rounds")
    tree = run_tree(folder, labeled=24, unlabeled=NUM_POOL, test=12)
    tree["data"] |= {"dev": NUM_DEV, "validation": NUM_VALIDATION}
    tree["method"] |= {
        "rounds": {"num": NUM_ROUNDS, "patience": NUM_ROUNDS},
        "retrieval": {"pool": "labeled+accepted", "accepted_per_label": 2},
        "justify": {"when": "split"},
        "confidence": "scored_nll",
        "select": {"theta": 0.5, "ties": "exact"},
    }
    tree["guard"], tree["speed"]["part_rows"] = {"min_accepted": 1, "min_answers": 1}, NUM_POOL // 2
    done = do_run(tree, folder / "run")
    return Rounds(folder / "run", tree, done.round)


def _accepted(root: Path, number: int, fold: str = "") -> dict[str, dict[str, Any]]:
    rows = rows_of(root, f"rounds/{number:04d}/{fold}select", schema.SELECTION)
    return {row["id"]: row for row in rows if row["decision"] == "accepted"}


def _examples(root: Path, number: int, source: str) -> list[dict[str, Any]]:
    rows = rows_of(root, f"rounds/{number:04d}/examples", schema.EXAMPLES)
    return [row for row in rows if row["source"] == source]


def test_accepted_rows_stay_as_the_round_that_accepted_them_left_them(rounds: Rounds) -> None:
    last = {row["id"]: row for row in _examples(rounds.root, NUM_ROUNDS, "pseudo")}
    expected = {i: (row, n) for n in ROUNDS for i, row in _accepted(rounds.root, n).items()}
    assert len(last) == len(expected) > NUM_POOL // 2
    for row_id, (row, number) in expected.items():
        found = last[row_id]
        assert (found["answer"], found["confidence"], found["round"]) == (row["label"], row["confidence"], number)


def test_every_row_is_learned_once_and_labels_always(rounds: Rounds) -> None:
    labeled = set(ids_of(rounds.root, "data/labeled", schema.LABELED))
    assert len(labeled) == 24 - NUM_DEV - NUM_VALIDATION
    for number in (0, *ROUNDS):
        ids = ids_of(rounds.root, f"rounds/{number:04d}/examples", schema.EXAMPLES)
        assert len(ids) == len(set(ids))
        assert {row["id"] for row in _examples(rounds.root, number, "gold")} == labeled


def test_each_round_answers_what_is_left_and_accepts_its_share_of_it(rounds: Rounds) -> None:
    left = ids_of(rounds.root, "data/unlabeled", schema.UNLABELED)
    for number in ROUNDS:
        justified = rows_of(rounds.root, f"rounds/{number:04d}/justify", schema.JUSTIFIED)
        assert [row["id"] for row in justified] == left
        answered = [row for row in justified if row["confidence"] is not None]
        accepted = _accepted(rounds.root, number)
        assert len(accepted) == num_kept(0.5, len(answered))  # ties: exact
        left = [i for i in left if i not in accepted]
    assert 0 < len(left) < NUM_POOL // 4


def test_confidence_is_one_quantity_whether_a_row_was_justified_or_voted(rounds: Rounds) -> None:
    rows = rows_of(rounds.root, "rounds/0001/justify", schema.JUSTIFIED)
    sources = Counter(row["label_source"] for row in rows)
    assert set(sources) == {"vote", "justification"}
    for row in rows:
        assert (row["text"] is None) == (row["label_source"] == "vote")
        assert row["confidence"] is not None


def test_dev_rows_leave_with_their_round_or_once_a_round_would_accept_them(rounds: Rounds) -> None:
    dev = ids_of(rounds.root, "data/dev", schema.UNLABELED)
    slices, gone = dev_slices(step_at(rounds.root, "data/dev"), NUM_ROUNDS), set[str]()
    assert Counter(slices.values()) == dict.fromkeys(ROUNDS, NUM_DEV // NUM_ROUNDS)
    for number in ROUNDS:
        asked = ids_of(rounds.root, f"rounds/{number:04d}/dev/justify", schema.JUSTIFIED)
        assert asked == [i for i in dev if slices[i] >= number and i not in gone]
        gone |= set(_accepted(rounds.root, number, "dev/"))


def test_held_out_rows_are_never_learned_or_shown(rounds: Rounds) -> None:
    held = {
        *ids_of(rounds.root, "data/dev", schema.UNLABELED),
        *ids_of(rounds.root, "data/validation", schema.LABELED),
        *ids_of(rounds.root, "data/test", schema.LABELED),
    }
    used = set(ids_of(rounds.root, f"rounds/{NUM_ROUNDS:04d}/examples", schema.EXAMPLES))
    for number in ROUNDS:
        for fold in ("", "dev/"):
            shown = rows_of(rounds.root, f"rounds/{number:04d}/{fold}retrieve", schema.DEMONSTRATIONS)
            used |= {i for row in shown for i in row["demonstration_ids"]}
    assert not used & held


def test_accepted_rows_are_shown_later_marked_and_few_of_each_label(rounds: Rounds) -> None:
    surest = rows_of(rounds.root, "rounds/0002/shown", schema.EXAMPLES)
    pseudo = [row for row in surest if row["source"] == "pseudo"]
    assert Counter(row["answer"] for row in pseudo).most_common(1)[0][1] == 2
    shown = rows_of(rounds.root, "rounds/0002/retrieve", schema.DEMONSTRATIONS)
    marked = {
        i for row in shown for i, of in zip(row["demonstration_ids"], row["sources"], strict=True) if of != "gold"
    }
    assert marked
    assert marked <= {row["id"] for row in pseudo} <= set(_accepted(rounds.root, 1))


def test_planned_steps_of_several_rounds_are_those_a_run_does(rounds: Rounds) -> None:
    done = [name for name, record in read_steps(str(rounds.root)) if record.get("committed")]
    assert sorted(planned_steps(parse(rounds.tree, "test"))) == sorted(done)


def test_run_hands_over_the_first_round_of_the_best_on_validation(rounds: Rounds) -> None:
    found = [metrics_of(rounds.root, f"rounds/{n:04d}/validation")["accuracy"] for n in (0, *ROUNDS)]
    assert rounds.best == found.index(max(found))
    assert read_manifest(str(rounds.root))["final"] == {"round": rounds.best, "last_round": NUM_ROUNDS}


def test_summary_and_status_tell_of_every_round(rounds: Rounds) -> None:
    found = summarise(str(rounds.root))
    assert [(p.round, p.num_rows) for p in found.pseudo_labels] == [(1, 48), (2, 24), (3, 12)]
    by_model = {a.model: a.accuracy.value for a in found.accuracies}
    assert by_model[SEMIEVOL] == metrics_of(rounds.root, f"rounds/{rounds.best:04d}/evaluate")["accuracy"]
    assert len(by_model) == NUM_ROUNDS + 2
    assert status(str(rounds.root)).finished


def test_explain_follows_a_row_until_a_round_accepts_it(rounds: Rounds) -> None:
    told = explain(str(rounds.root), next(iter(_accepted(rounds.root, 2))))
    first, second, third = told.split("--- round ")[1:]
    assert "decision: uncertain" in first
    assert "decision: accepted" in second
    assert "not asked again" in third
    assert explain(str(rounds.root), next(iter(_accepted(rounds.root, NUM_ROUNDS)))).count("decision:") == NUM_ROUNDS


def test_second_command_of_several_rounds_does_nothing_and_needs_no_ray(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semievol_ray.stages.context.connected", None)
    before, began = stamps_under(rounds.root), time.monotonic()
    assert do_run(rounds.tree, rounds.root).round == rounds.best
    assert time.monotonic() - began < 3
    assert stamps_under(rounds.root) == before


def test_other_number_of_rounds_would_cut_the_dev_fold_otherwise_and_is_refused(rounds: Rounds) -> None:
    with pytest.raises(DriftError, match=r"settings\.slices: 3 in the run directory, 2 now"):
        do_run(changed(changed(rounds.tree, "method.rounds.num", 2), "method.rounds.patience", 2), rounds.root)


@pytest.fixture
def short(tmp_path: Path, without_ray: None) -> dict[str, Any]:  # noqa: ARG001
    """A run without retrieval or held-out rows, in this process."""
    tree = run_tree(tmp_path, labeled=12, unlabeled=32, test=8)
    tree["method"]["collaborators"] = [{}, {"adapter": "warm"}]
    tree["guard"] = {"min_accepted": 1, "min_answers": 1}
    return tree


def test_more_rounds_go_on_from_the_last_without_redoing_one(short: dict[str, Any], tmp_path: Path) -> None:
    assert do_run(changed(short, "method.rounds", 1), tmp_path / "run").last_round == 1
    before = stamps_under(tmp_path / "run")
    assert do_run(changed(short, "method.rounds", 2), tmp_path / "run").last_round == 2
    after = stamps_under(tmp_path / "run")
    assert {path: after[path] for path in before} == before
    assert read_manifest(str(tmp_path / "run"))["final"] == {"round": 2, "last_round": 2}
    assert metrics_of(tmp_path / "run", "rounds/0002/evaluate")["num_rows"] == 8


def test_run_that_goes_on_with_more_rounds_is_known_by_them_from_its_first_work_on(
    short: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, more = tmp_path / "run", changed(short, "method.rounds", 2)
    do_run(changed(short, "method.rounds", 1), root)
    before = read_manifest(str(root))
    assert before["final"] == {"round": 1, "last_round": 1}

    answer_round = driver.answer_round

    def dies(context: Any, number: int, *rest: Any) -> Any:
        if number == 2:
            raise KeyboardInterrupt
        return answer_round(context, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(driver, "answer_round", dies)
        with pytest.raises(KeyboardInterrupt):
            do_run(more, root)
    after = read_manifest(str(root))
    assert after["config"]["method"]["rounds"]["num"] == 2
    assert "final" not in after
    found = status(str(root))
    assert not found.finished
    assert "rounds/0002/select" in [step.name for step in found.steps]
    (change,) = [event for event in read_events(str(root)) if event["kind"] == "configuration_changed"]
    assert (change["before"], change["final"]) == (before["config"], before["final"])
    assert not found.troubles


def test_configuration_that_is_refused_leaves_the_manifest_as_it_was(short: dict[str, Any], tmp_path: Path) -> None:
    root = tmp_path / "run"
    do_run(changed(short, "method.rounds", 1), root)
    before = (root / "manifest.json").read_bytes()
    with pytest.raises(DriftError):
        do_run(changed(changed(short, "method.rounds", 2), "method.select.theta", 0.75), root)
    assert (root / "manifest.json").read_bytes() == before


def test_vectors_that_a_further_round_needs_are_kept_when_a_crash_stopped_it(
    short: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, tree = tmp_path / "run", changed(short, "method.retrieval", {"pool": "labeled+accepted"})
    tree = changed(tree, "method.collaborators", [{"demonstrations": 1}, {"adapter": "warm"}])
    do_run(changed(tree, "method.rounds", 2), root)

    demonstrations_of = driver.demonstrations_of

    def dies(context: Any, number: int, *rest: Any) -> Any:
        if number == 3:
            raise KeyboardInterrupt
        return demonstrations_of(context, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(driver, "demonstrations_of", dies)
        with pytest.raises(KeyboardInterrupt):
            do_run(changed(tree, "method.rounds", 3), root)
    clean_run(str(root), "last_round", lambda _: True)
    assert do_run(changed(tree, "method.rounds", 3), root).last_round == 3


def test_collaborator_on_another_base_has_a_warm_up_of_its_own_that_does_not_evolve(
    short: dict[str, Any], tmp_path: Path
) -> None:
    two = [{"name": "own", "adapter": "warm"}, {"name": "other", "model": "org/other", "adapter": "warm"}]
    root, tree = tmp_path / "run", changed(short, "method.collaborators", two)
    do_run(changed(tree, "method.rounds", 2), root)
    assert [name for name, _ in read_steps(str(root)) if name.startswith("bases/")] == ["bases/org-other/train"]
    warm = {n: step_at(root, n).digest() for n in ("bases/org-other/train", "rounds/0000/train", "rounds/0001/train")}
    used = [
        [step_at(root, f"rounds/{n:04d}/drafts/{name}").record()["inputs"]["adapter"] for n in (1, 2)]
        for name in ("own", "other")
    ]
    assert used == [[warm["rounds/0000/train"], warm["rounds/0001/train"]], [warm["bases/org-other/train"]] * 2]
    assert step_at(root, "rounds/0001/justify").record()["inputs"]["adapter"] == warm["rounds/0000/train"]


def test_every_row_answered_again_may_be_demoted_and_is_learned_once(short: dict[str, Any], tmp_path: Path) -> None:
    root = tmp_path / "run"
    do_run(changed(short, "method.rounds", {"num": 2, "reanswer": "all"}), root)
    assert ids_of(root, "rounds/0002/select", schema.SELECTION) == ids_of(root, "data/unlabeled", schema.UNLABELED)
    learned = {row["id"]: row for row in _examples(root, 2, "pseudo")}
    assert set(learned) == set(_accepted(root, 2)) != set(_accepted(root, 1))
    assert {row["round"] for row in learned.values()} == {2}


def test_rounds_stop_when_validation_gets_no_better(short: dict[str, Any], tmp_path: Path) -> None:
    tree = changed(changed(short, "method.rounds", {"num": 9, "patience": 1}), "data.validation", 4)
    done = do_run(tree, tmp_path / "run")
    found = [metrics_of(tmp_path / "run", f"rounds/{n:04d}/validation")["accuracy"] for n in range(done.last_round + 1)]
    assert done.last_round < 9
    assert found[-1] <= max(found[:-1])
    assert all(later > max(found[:i]) for i, later in enumerate(found[1:-1], start=1))
    assert status(str(tmp_path / "run")).finished


def test_rounds_end_where_no_row_of_the_pool_is_left(short: dict[str, Any], tmp_path: Path) -> None:
    tree = changed(changed(short, "method.rounds", 3), "method.select", {"theta": 1.0})
    assert do_run(tree, tmp_path / "run").last_round == 1
    assert read_manifest(str(tmp_path / "run"))["final"] == {"round": 1, "last_round": 1}
    assert status(str(tmp_path / "run")).finished
    assert do_run(tree, tmp_path / "run").last_round == 1


def test_person_who_labels_rejected_rows_is_heard_from_the_round_that_knows_them(
    short: dict[str, Any], tmp_path: Path
) -> None:
    root = tmp_path / "run"
    do_run(short, root)
    pool = {row["id"]: row for row in rows_of(root, "data/unlabeled", schema.UNLABELED)}
    rejected = [pool[i]["question"] for i in pool if i not in _accepted(root, 1)][:3]
    (tmp_path / "people.csv").write_text("question,answer\n" + "".join(f"{q},body\n" for q in rejected))
    people = [{"path": str(tmp_path / "people.csv"), "from_round": 2}]
    do_run(changed(changed(short, "method.rounds", 2), "data.annotations", people), root)
    assert not {pool[i]["question"] for i in ids_of(root, "rounds/0002/pool", schema.UNLABELED)} & set(rejected)
    learned = {row["question"]: (row["answer"], row["source"]) for row in _examples(root, 2, "gold")}
    assert {q: learned[q] for q in rejected} == dict.fromkeys(rejected, ("body", "gold"))


def test_guard_stops_a_round_before_training_and_a_looser_one_goes_on(
    short: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(changed(short, "method.rounds", 2)))
    command = ["run", str(tmp_path / "run.yaml"), "--run", str(tmp_path / "run"), "-o"]
    assert cli.main([*command, "guard.min_accepted=16"]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "round 2 stops before training: accepted rows: 8, and guard.min_accepted is 16" in told
    begun = dict(read_steps(str(tmp_path / "run")))
    assert begun["rounds/0001/evaluate"]["committed"]  # what round 1 made stands, and its worth is known
    assert "rounds/0002/examples" not in begun
    before = stamps_under(tmp_path / "run")
    assert cli.main([*command, "guard.min_accepted=8"]) == 0
    after = stamps_under(tmp_path / "run")
    assert {path: after[path] for path in before} == before
    assert read_manifest(str(tmp_path / "run"))["final"] == {"round": 2, "last_round": 2}
