"""What every public metric keeps to: pure functions that say what they give, and never a silent number."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest

import pipelines.metrics
from registry.errors import BlankslideError
from tests.pipelines.metrics.catalogue import (
    CASES,
    CATALOGUE,
    PARTS,
    Gives,
    Metric,
    Refused,
    alike,
    digest,
    digests,
    leaves,
    not_finite,
    outcome,
    screen,
)

METRICS = pytest.mark.parametrize("metric", CATALOGUE.values(), ids=CATALOGUE)
ASKED = [(metric, case) for metric in CATALOGUE.values() for case in metric.expected]
#: arguments that say how many of something are drawn or taken, and the least that makes sense; where permutations may be left out there is no p
LEAST = {
    **dict.fromkeys(("bins", "dims", "draws", "k", "least_replicates", "max_dim", "most_controls", "n_permutations", "null_size", "samples"), 1),
    "permutations": 0,
    "n_folds": 2,
}
#: whole numbers that are none of these: sizes of what is given, and names
NO_COUNTS = {"n_classes", "seed", "draw", "direction", "n_rungs", "n_positive", "n_negative", "n"}


def public() -> dict[str, FunctionType]:
    """Every public function of `pipelines.metrics`, where it is defined."""
    found = {}
    for info in pkgutil.iter_modules(pipelines.metrics.__path__):
        module = importlib.import_module(f"pipelines.metrics.{info.name}")
        for name, value in vars(module).items():
            if isinstance(value, FunctionType) and value.__module__ == module.__name__ and not name.startswith("_"):
                found[f"{info.name}.{name}"] = value
    return found


def sound(name: str) -> Any:
    return outcome(CATALOGUE[name])


def test_every_public_function_is_in_the_catalogue() -> None:
    """A new metric: give it an entry in the catalogue, with what it gives on each case. A new part of one: say in `PARTS` of what."""
    named = {metric.qualified for metric in CATALOGUE.values()}
    assert named | set(PARTS) == set(public())
    assert not named & set(PARTS)


def arguments_or_error(metric: Metric, case: str) -> Any:
    try:
        return metric.arguments(CASES[case]())
    except BlankslideError as error:
        return str(error)


@METRICS
def test_a_metric_is_asked_about_every_case_that_changes_its_arguments(metric: Metric) -> None:
    given = digest(metric.arguments(screen()))
    assert [case for case in CASES if digest(arguments_or_error(metric, case)) != given] == [case for case in CASES if case in metric.expected]


@METRICS
def test_nothing_is_missing_on_a_sound_screen(metric: Metric) -> None:
    found = sound(metric.name)
    assert not isinstance(found, BlankslideError), found
    assert not_finite(found) == metric.missing


@pytest.mark.parametrize(("metric", "case"), ASKED, ids=[f"{m.name}-{c}" for m, c in ASKED])
def test_a_degenerate_screen_has_a_defined_result_or_a_clear_error(metric: Metric, case: str) -> None:
    expected, found = metric.expected[case], outcome(metric, case)
    if isinstance(expected, Refused):
        assert isinstance(found, BlankslideError), found
        assert re.search(expected.words, str(found)), str(found)
        return
    assert not isinstance(found, BlankslideError), found
    assert not_finite(found) == expected.missing
    assert expected.check(found, sound(metric.name), CASES[case]()), found


def whole_numbers(metric: Metric) -> list[str]:
    return [name for name, given in inspect.signature(metric.function).parameters.items() if given.annotation in ("int", "int | None")]


@METRICS
def test_too_few_draws_or_neighbours_are_a_clear_error(metric: Metric) -> None:
    asked = whole_numbers(metric)
    assert set(asked) <= LEAST.keys() | NO_COUNTS, "say in `LEAST` how few make sense"
    for name in asked:
        if name in LEAST:
            few = LEAST[name] - 1
            with pytest.raises(BlankslideError, match=rf"Expected [^.]*, got [^.]*{few}"):
                metric.function(**{**metric.arguments(screen()), name: few})


@METRICS
def test_a_metric_is_a_pure_function(metric: Metric) -> None:
    arguments = metric.arguments(screen())
    before = deepcopy(arguments)
    again = metric.function(**arguments)
    assert digest(arguments) == digest(before)
    assert digest(again) == digest(sound(metric.name))


@METRICS
def test_the_order_of_images_does_not_matter(metric: Metric) -> None:
    n = len(screen().x)
    order = np.random.default_rng(3).permutation(n)
    found = [leaf for leaf in leaves(metric.function(**metric.arguments(screen().shuffled(order)))) if leaf[0] not in metric.ordered]
    expected = [leaf for leaf in leaves(sound(metric.name)) if leaf[0] not in metric.ordered]
    if "" in metric.ordered:
        return
    assert [path for path, _ in found] == [path for path, _ in expected]
    for (path, value), (_, known) in zip(found, expected, strict=True):
        of_images = isinstance(known, np.ndarray) and n in known.shape
        moved = np.take(known, order, axis=known.shape.index(n)) if of_images else known
        assert alike(value, moved, metric.tolerance), path


def test_results_are_the_same_bytes_under_two_hash_seeds() -> None:
    other = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    found = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.pipelines.metrics.catalogue"],
        env={**os.environ, "PYTHONHASHSEED": other},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.splitlines() == list(digests())


# ------------------------------------------------------------------------------------------------ what is written about them


def result_docs(value: Any) -> Iterator[str]:
    """Documentation of the classes that a result is made of."""
    if is_dataclass(value):
        yield inspect.getdoc(type(value)) or ""
        for f in fields(value):
            yield from result_docs(getattr(value, f.name))
    elif isinstance(value, Mapping | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from result_docs(part)


@METRICS
def test_the_documentation_says_what_goes_in_and_what_comes_out(metric: Metric) -> None:
    text = inspect.getdoc(metric.function) or ""
    taken = list(inspect.signature(metric.function).parameters)
    _, _, section = text.partition("Args:\n")
    section = section.partition("\n\n")[0]
    assert [name for name in taken if not re.search(rf"^ *{name}: ", section, re.MULTILINE)] == []
    refused = [case for case, expected in metric.expected.items() if isinstance(expected, Refused)]
    assert "Raises:" in text or all(isinstance(arguments_or_error(metric, case), str) for case in refused)
    everything = "\n".join([text, *result_docs(sound(metric.name))])
    if re.search(r"Floats|Ints|Mask|NDArray", str(inspect.signature(metric.function))):
        assert re.search(r"\(\w+,[^)]*\)", everything), "no shape"
    if metric.score:
        assert re.search(r"is better|better counted as more|positive is information gained", everything), "no direction"
        source = f"{everything}\n{inspect.getmodule(metric.function).__doc__}"
        assert re.search(r"\b(19|20)\d\d\b|[Ss]cikit-learn|SciPy|copairs|of the definitions", source), "no reference"


@METRICS
def test_what_may_be_missing_is_documented(metric: Metric) -> None:
    missing = set(metric.missing).union(*(e.missing for e in metric.expected.values() if isinstance(e, Gives)))
    text = "\n".join([inspect.getdoc(metric.function) or "", *result_docs(sound(metric.name))])
    for path in missing:
        name = path.rpartition(".")[2]
        described = re.search(rf"^ *{name}: (.*(?:\n {{8,}}.*)*)", text, re.MULTILINE) if name else re.search(r"(?s)(.*)", text)
        assert described, path
        assert re.search(r"NaN|[Ii]nfinite|inf\b", described[1] + (inspect.getdoc(metric.function) or "")), path
