"""Retrieval: a million questions against ten thousand labeled ones, embedding, and what approximate indexes miss.

`python -m benchmarks.retrieve [--quick] [--only sei] [--out FILE]`: s search against raw FAISS and numpy on the same
cores, e embedding against sentence-transformers, i the kinds of index by size. Arms take turns, so that what else the
machine does hits all alike; ratios are medians over the turns.
"""

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import retrieve_arms as arms
from benchmarks.found import Found

DIMENSIONS, K = 384, 3
SEARCH_RATIO, EMBED_RATIO, RECALL = 0.9, 0.95, 0.95
FEWEST_TURNS = 3
SHARES = {"s": 0.6, "e": 0.8, "i": 0.9}
"""The share of --most-seconds after which each part begins nothing more, on a machine that others slow down."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured: turns of so many questions against so many keys; texts and turns; indexed vectors."""

    turns: int
    questions_a_turn: int
    keys: int
    texts: int
    embed_turns: int
    indexed: tuple[int, ...]
    asked: int


FULL = Sizes(40, 25_000, 10_000, 1_000, 7, (10_000, 30_000, 100_000, 300_000), 4096)
QUICK = Sizes(4, 4_096, 10_000, 128, 3, (10_000, 30_000), 512)


@dataclass
class Searched(Found):
    """The figures so far, and how many turns of the search there were."""

    turns: int = 0


@dataclass(frozen=True)
class Times:
    """Seconds of every turn of one arm, by the clock and by the processor (all threads of this process)."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for, print the table, write the result file after each part."""
    options = _options(arguments)
    sizes, found = QUICK if options.quick else FULL, Searched()
    load, began = os.getloadavg()[0], time.monotonic()
    for letter, measure in {"s": _search, "e": _embed, "i": _indexes}.items():
        if letter in options.only:
            measure(found, sizes, began + SHARES[letter] * options.most_seconds)
            print("\n".join(found.lines()), "\n", flush=True)
            found.keep(options.out, "retrieve", _command(options), found.turns, shared=_shared(load))
    return 0


def turned(
    work: Mapping[str, Callable[[], Any]],
    num_turns: int,
    prepare: Callable[[int], None] = lambda _: None,
    until: float = math.inf,
) -> dict[str, Times]:
    """Every arm once a turn, each turn beginning with another; `prepare` is not timed. After `until` no turn begins."""
    times, names = {name: Times() for name in work}, list(work)
    for turn in range(num_turns):
        if turn >= FEWEST_TURNS and time.monotonic() > until:
            break
        prepare(turn)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            wall, cpu = time.perf_counter(), time.process_time()
            work[name]()
            times[name].wall.append(time.perf_counter() - wall)
            times[name].cpu.append(time.process_time() - cpu)
    return times


def ratios(base: Times, other: Times) -> list[float]:
    """How many times as fast as the base an arm was, turn by turn."""
    return [b / o for b, o in zip(base.wall, other.wall, strict=True)]


def _search(found: Searched, sizes: Sizes, until: float) -> None:
    keys_ND = arms.clustered(sizes.keys, 1, DIMENSIONS)
    asked = arms.Asked(keys_ND, sizes.questions_a_turn, K)
    work = {"raw FAISS": asked.raw_faiss, "semievol": asked.product, "numpy": asked.plain_numpy}
    times = turned(work, sizes.turns, asked.draw, until)
    done = len(times["numpy"].wall) * sizes.questions_a_turn
    found.turns = len(times["numpy"].wall)
    name = f"search {done:,} x {sizes.keys:,} x {DIMENSIONS}, k {K}"
    _speeds(found, name, times, dict.fromkeys(work, done) | {"numpy": done // arms.NUMPY_SHARE}, "questions/s")
    found.metrics[f"{name}, largest difference of a cosine to raw FAISS"] = asked.largest_difference
    found.at_least(f"{name}: semievol over raw FAISS", SEARCH_RATIO, _compared(found, name, times, "raw FAISS"))
    num = len(times["numpy"].wall)
    numpy_all = [t * arms.NUMPY_SHARE for t in times["numpy"].wall]
    found.metrics[f"{name}, semievol over numpy"] = statistics.median(
        numpy_all[i] / times["semievol"].wall[i] for i in range(num)
    )


def _embed(found: Searched, sizes: Sizes, until: float) -> None:
    for name, texts in arms.texts(sizes.texts).items():
        both = arms.Embedders(texts)
        both.plain()  # the first call of each is not timed
        both.product()
        work = {"sentence-transformers": both.plain, "semievol": both.product}
        times = turned(work, sizes.embed_turns, until=until)
        name = f"embed {len(texts):,} {name}"
        _speeds(found, name, times, dict.fromkeys(work, len(texts) * len(times["semievol"].wall)), "texts/s")
        found.metrics[f"{name}, largest difference of a value"] = both.largest_difference
        ratio = _compared(found, name, times, "sentence-transformers")
        found.at_least(f"{name}: semievol over sentence-transformers", EMBED_RATIO, ratio)


def _indexes(found: Searched, sizes: Sizes, until: float) -> None:
    asked_QD = arms.clustered(sizes.asked, 2, DIMENSIONS)
    for num in sizes.indexed:
        if time.monotonic() > until:
            break
        for kind, figures in arms.kinds(arms.clustered(num, 3, DIMENSIONS), asked_QD, K).items():
            found.metrics |= {f"{kind} of {num:,}, {what}": value for what, value in figures.items()}
            if kind != "flat":
                found.at_least(f"recall@{K} of {kind} of {num:,}", RECALL, figures[f"recall@{K}"])


def _speeds(found: Searched, name: str, times: Mapping[str, Times], done: Mapping[str, int], unit: str) -> None:
    for arm, of in times.items():
        found.metrics[f"{name}, {arm}, {unit}"] = done[arm] / sum(of.wall)
        found.metrics[f"{name}, {arm}, {unit} of processor time"] = done[arm] / sum(of.cpu)


def _compared(found: Searched, name: str, times: Mapping[str, Times], base: str) -> float:
    """The median ratio over the turns, its quartiles beside it."""
    each = ratios(times[base], times["semievol"])
    low, median, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
    found.metrics |= {f"{name}, ratio, lower quartile": low, f"{name}, ratio, upper quartile": high}
    found.metrics[f"{name}, ratio of processor time"] = sum(times[base].cpu) / sum(times["semievol"].cpu)
    return median


def _command(options: argparse.Namespace) -> str:
    size = f"{' --quick' * options.quick} --only {options.only} --most-seconds {options.most_seconds:g}"
    return f"python -m benchmarks.retrieve{size}"


def _shared(load: float) -> str:
    return (
        f"the machine had other work meanwhile: load average {load:.0f} at the start, {os.getloadavg()[0]:.0f} at the "
        f"end, on {os.cpu_count()} cores; compare arms, not runs"
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieve", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the same on less, within two minutes on 2 cores")
    parser.add_argument("--only", default="sei", help="s search, e embedding, i kinds of index (default: all)")
    parser.add_argument(
        "--most-seconds", type=float, default=3600.0, help="about how long; what is left out is not in the figures"
    )
    parser.add_argument("--out", help="write the figures to this file as JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
