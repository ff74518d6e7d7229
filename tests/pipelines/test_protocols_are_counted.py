"""An id stands for one rule: where a rule computes something else, its id has to be counted up, and nobody can forget to.

What is recorded, and how: `tests/pipelines/protocol_record.py`, docs/decisions/0020-counted-protocols.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import brightness, diagnose, evaluate
from pipelines.beside import confounding, probing, replicates
from pipelines.beside.wells import Wells
from pipelines.metrics import baseline, ceiling, contrasts, expression, few_shot, jackknife, logistic, probes, retrieval, shortcut, verdicts
from registry.evidence import WORDS
from tests.pipelines import protocol_record
from tests.pipelines.protocol_answers import RULES, answers, plain
from tests.pipelines.protocol_record import (
    COMMAND,
    FILE,
    Record,
    SameIdError,
    counted_in,
    differences,
    faults,
    ids_of_now,
    libraries,
    literals,
    record,
)

Answers = dict[str, dict[str, Any]]
Patch = pytest.MonkeyPatch
#: of an answer that could not be fitted: that it has none is all that it says
NOTHING_FITTED = expression.protocol_id("hest_cv")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("protocols")


@pytest.fixture(scope="module")
def found(root: Path) -> Answers:
    return answers(root)


@pytest.fixture(scope="module")
def ids(root: Path) -> set[str]:
    return ids_of_now(root / "now")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    path = tmp_path / "protocols.json"
    path.write_bytes(FILE.read_bytes())
    return path


def test_every_id_answers_as_it_did_when_it_was_recorded(found: Answers, ids: set[str]) -> None:
    said = faults(Record.read(), found, ids, libraries())
    assert not said, "\n".join(["", *said])


def test_every_count_in_the_code_is_of_an_id_that_evidence_carries(ids: set[str]) -> None:
    """A rule that counts its id and that nobody names among those of now would make evidence stale for ever, or never."""
    assert [one for one in literals() if not any(one.begins(each) for each in ids)] == []
    assert [one for one in ids if counted_in(one) == "no file"] == []
    assert counted_in(replicates.PROTOCOL) == "`pipelines/beside/replicates.py`"
    assert counted_in("retrieval/euclidean/candidates-other-units/tie-aware/v30") == "no file"


def test_a_count_that_nobody_names_is_found(tmp_path: Path, ids: set[str]) -> None:
    code = tmp_path / "pipelines" / "new.py"
    code.parent.mkdir()
    code.write_text('"""Says new/rule/v1."""\nNEW = "new/rule/v1"\n\n\ndef of(k: int) -> str:\n    """k/v2"""\n    return f"other:k{k}:v2:more"\n')
    assert [one.text for one in literals(tmp_path)] == ["new/rule/v1", "other:k*:v2:more"]
    assert not any(one.begins(each) for one in literals(tmp_path) for each in ids)


# -- a rule is changed under its id --


def _of(module: Any, name: str, change: Callable[[Any], Any]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(module, name, change(getattr(module, name)))


def _wrapped(module: Any, name: str, change: Callable[..., Any]) -> Callable[[Patch], None]:
    """`change` gets what is wrapped and its arguments."""
    return _of(module, name, lambda old: lambda *args, **more: change(old, *args, **more))


BY_WELLS = _wrapped(Wells, "profiles", lambda old, self, x: old(self, x**2))

#: what is changed -> (how, what asks it, how the ids begin that must notice, and no others)
CHANGES: dict[str, tuple[Callable[[Patch], None], str, tuple[str, ...]]] = {
    "weights of classes": (
        _wrapped(logistic, "fit", lambda old, z, codes, k, penalty, start, balanced: old(z, codes, k, penalty, start, balanced**0.9)),
        "tasks",
        ("logistic/standardise/pca128/",),
    ),
    "one neighbour more": (
        _wrapped(probes, "fit_knn", lambda old, *args: old(*args[:-1], replace(args[-1], neighbours=16))),
        "tasks",
        ("knn/standardise/pca128/",),
    ),
    "other penalties": (_wrapped(evaluate, "fit_ridge", lambda old, *args: old(*args, penalties=[3e-4, 3e-1])), "tasks", ("ridge/",)),
    "no length of 1": (_of(few_shot, "_unit", lambda _old: lambda x: x), "tasks", ("simpleshot/",)),
    "fewer components of what is retrieved": (_wrapped(evaluate, "fit_projection", lambda old, x, _dim: old(x, 4)), "tasks", ("retrieval/",)),
    "rows for wells": (
        _wrapped(evaluate, "retrieve", lambda old, *args: old(*args[:5], *(wells.astype("<U1") for wells in args[5:]))),
        "tasks",
        (retrieval.OTHER_WELLS,),
    ),
    "components of what is probed": (
        _wrapped(probes, "fit_projection", lambda old, x, dim: old(x, dim // 8)),
        "many columns",
        ("logistic/standardise/pca128/", "knn/standardise/pca128/", "ridge/"),
    ),
    "the common dimension": (
        _wrapped(probes, "fit_projection", lambda old, x, dim: old(x, dim // 2)),
        "common dimension",
        ("logistic/standardise/pca64/", "knn/standardise/pca64/"),
    ),
    "what every probability is mixed with": (_of(baseline, "_MIXED", lambda old: 1.1 * old), "bits", ("information/",)),
    "classes that are too small": (_of(confounding, "LEAST_OF_CLASS", lambda _old: 1000), "batch and place", ("confounds:",)),
    "one control task more": (_of(probing, "DRAWS", lambda old: old + 1), "probing", ("probing:",)),
    "profiles of replicates": (BY_WELLS, "replicates", ("replicates:",)),
    "profiles of what is known": (BY_WELLS, "knowledge", ("knowledge:",)),
    "counts of genes": (_wrapped(expression, "_counts", lambda old, *args: 2 * old(*args)), "expression", ("hest_",)),
    "an interval of a share": (_wrapped(shortcut, "share_of_gap", lambda old, *args: old(*args[:-1], 2 * args[-1])), "brightness", ("shortcut/",)),
    "what brightness is": (_wrapped(brightness, "shortcut_features", lambda old, a, b: old(b, a)), "brightness", ("shortcut/",)),
    "tails of t": (_wrapped(contrasts, "t_quantile", lambda old, alpha, df: old(alpha, df + 1)), "verdicts", ("verdict:",)),
}
#: what is changed in the rule of the verdict
OF_THE_VERDICT: dict[str, Callable[[Patch], None]] = {
    "units that are enough": _of(jackknife, "MIN_UNITS", lambda _old: 8),
    "effective units that are enough": _of(jackknife, "MIN_N_EFF", lambda _old: 1.0),
    "units of a class that are enough": _of(jackknife, "MIN_UNITS_PER_CLASS", lambda _old: 2),
    "seeds that are enough": _of(contrasts, "MIN_SEEDS", lambda _old: 4),
    "power": _of(contrasts, "POWER_EQUIVALENCE", lambda _old: 0.84),
    "one more seed": _of(contrasts.Contrast, "_sd_of_one_more_seed", lambda _old: property(lambda self: self.sd_seeds)),
    "the mean of seeds": _wrapped(contrasts.Contrast, "_variance_of_mean", lambda _old, _self, variance, n: (variance, n - 1)),
    "equivalent to one more draw": _of(contrasts.Contrast, "_reach_of_mean", lambda _old: contrasts.Contrast._reach),
    "what pairs of units do": _of(jackknife, "second_order", lambda _old: lambda _a, _b: 0.0),
    "a table of several tasks": _of(verdicts, "holm", lambda _old: list),
    "several controls": _wrapped(verdicts, "find", lambda old, found, alpha, *more: old(found, alpha * len(found), *more)),
    "a loss beside what is not assessable": _wrapped(
        verdicts, "find", lambda old, found, *more: old([c for c in found if not c.assessable] or found, *more)
    ),
    "the margin": _wrapped(verdicts, "find", lambda old, found, alpha, margin, first: old(found, alpha, 1.1 * margin, first)),
    "the margin comes first": _wrapped(verdicts, "find", lambda old, found, alpha, margin, first: old(found, alpha, margin, not first)),
    "the covariance of a share": _of(ceiling, "covariance", lambda _old: lambda _a, _b: 0.0),
    "the floor of a share": _wrapped(verdicts, "_gap", lambda old, subject, rows, *more: old(subject, dict(list(rows.items())[:1]), *more)),
    "what decides nothing": _wrapped(diagnose, "judge", lambda old, *args, controls, aside, **more: old(*args, controls=controls | aside, **more)),
}


def ask_again(change: Callable[[Patch], None], rule: str, root: Path, found: Answers, monkeypatch: Patch) -> Answers:
    """All answers, those of one rule under a change."""
    with monkeypatch.context() as patch:
        change(patch)
        return {**found, **{one: {**found[one], **again} for one, again in answers(root, (rule,)).items()}}


@pytest.mark.parametrize("change", CHANGES)
def test_a_rule_that_is_changed_under_its_id_is_noticed(change: str, root: Path, found: Answers, ids: set[str], monkeypatch: Patch) -> None:
    how, rule, begin = CHANGES[change]
    now = ask_again(how, rule, root, found, monkeypatch)
    mine = {one for one in ids if one.startswith(begin)} - {NOTHING_FITTED}
    assert {one.followed for one in differences(Record.read(), now)} == mine
    said = faults(Record.read(), now, ids, libraries())
    assert all("expected " in each and ", got " in each for each in said)
    assert all(any(f"count the id up in {counted_in(one)} and record by `{COMMAND}`." in each for each in said) for one in mine)


def test_no_id_is_without_a_change_that_it_notices(ids: set[str]) -> None:
    begin = tuple(prefix for _, _, prefixes in CHANGES.values() for prefix in prefixes)
    assert {one for one in ids if not one.startswith(begin)} == set()
    assert {rule for _, rule, _ in CHANGES.values()} == set(RULES)


@pytest.mark.parametrize("change", OF_THE_VERDICT)
def test_every_part_of_the_verdict_is_noticed(change: str, root: Path, found: Answers, monkeypatch: Patch) -> None:
    now = ask_again(OF_THE_VERDICT[change], "verdicts", root, found, monkeypatch)
    assert {one.followed for one in differences(Record.read(), now)} == {verdicts.PROTOCOL}


def test_verdicts_are_recorded_with_every_word_and_every_kind_of_share(found: Answers) -> None:
    recorded = found[verdicts.PROTOCOL]
    assert {one["overall"]["word"] for one in recorded.values()} == set(WORDS)
    # `beats` and negligible, and what the number of tasks takes away: to `undecided` and to `equivalent`
    assert any(one["overall"]["word"] == "beats" and one["overall"].get("negligible") for one in recorded.values())
    taken = {one["overall"]["word"] for one in recorded.values() if one["overall"].get("p", 1) <= 0.025 < one.get("p_adjusted", 0)}
    assert taken == {"undecided", "equivalent"}
    # a number, an interval without one, neither; a loss to one control where another cannot be assessed
    shares = [one["share_of_gap"] for one in recorded.values() if "share_of_gap" in one]
    assert {("value" in share, "low" in share) for share in shares} == {(True, True), (False, True), (False, False)}
    assert any(one["overall"]["word"] == "loses" and one["overall"].get("reason") for one in recorded.values())


# -- what may be recorded --


def other(answers_: Answers, by: float) -> tuple[Answers, str, str]:
    """The same with one number of one id by a part of it larger; the id and the question."""
    one, asked = replicates.PROTOCOL, "activity"
    answer = answers_[one][asked]
    return {**answers_, one: {**answers_[one], asked: {**answer, "value": answer["value"] * (1 + by)}}}, one, asked


def test_an_id_that_stays_keeps_its_answers(found: Answers, ids: set[str], copy: Path) -> None:
    before = copy.read_bytes()
    now, one, asked = other(found, 3e-6)
    with pytest.raises(SameIdError, match="nothing was written") as refused:
        record(copy, now, ids, libraries())
    was, got = found[one][asked]["value"], now[one][asked]["value"]
    count = f"if the change is meant, count the id up in `pipelines/beside/replicates.py` and record by `{COMMAND}`."
    assert f"`{asked}`.value under `{one}`: expected {was}, got {got}; {count}" in str(refused.value)
    assert copy.read_bytes() == before
    # a question that is gone, or has another name, takes its answer with it
    renamed = {**found, one: {f"{name}!": answer for name, answer in found[one].items()}}
    with pytest.raises(SameIdError):
        record(copy, renamed, ids, libraries())
    # nor does not asking at all, or rounding, change what is recorded
    for harmless in ({name: asked for name, asked in found.items() if name != one}, other(found, 1e-7)[0]):
        assert record(copy, harmless, ids, libraries()) == []
        assert copy.read_bytes() == before
    assert f"Nothing that `tests/pipelines/protocol_answers.py` asks carries `{one}`: ask it there." in faults(
        Record.read(copy), {name: asked for name, asked in found.items() if name != one}, ids, libraries()
    )


def test_an_id_that_is_counted_up_fails_until_it_is_recorded(root: Path, found: Answers, ids: set[str], copy: Path, monkeypatch: Patch) -> None:
    was, up = replicates.PROTOCOL, "replicates:v99:plate-standardised"
    monkeypatch.setattr(replicates, "PROTOCOL", up)
    BY_WELLS(monkeypatch)
    counted = ids_of_now(root / "counted")
    assert counted ^ ids == {was, up}
    now = {one: asked for one, asked in found.items() if one != was} | answers(root, ("replicates",))
    expected = [f"`{up}` is new: record its answers by `{COMMAND}`.", f"`{was}` is no more: forget its answers by `{COMMAND}`."]
    assert faults(Record.read(copy), now, counted, libraries()) == expected
    assert record(copy, now, counted, libraries()) == [f"recorded `{up}`", f"forgot `{was}`"]
    assert faults(Record.read(copy), now, counted, libraries()) == []
    others = {one: asked for one, asked in Record.read(copy).answers.items() if one != up}
    assert others == {one: asked for one, asked in Record.read().answers.items() if one != was}
    # the answers of before are no way back under the new id
    with pytest.raises(SameIdError):
        record(copy, {**now, up: found[was]}, counted, libraries())


def test_a_question_that_was_not_asked_before_is_added(found: Answers, ids: set[str], copy: Path) -> None:
    now = {**found, replicates.PROTOCOL: {**found[replicates.PROTOCOL], "another": {"value": 0.5}}}
    (said,) = faults(Record.read(copy), now, ids, libraries())
    assert said.startswith(f'`another` under `{replicates.PROTOCOL}`: expected null, got {{"value": 0.5}}; ')
    assert record(copy, now, ids, libraries()) == [f"recorded `another` of `{replicates.PROTOCOL}`"]
    assert faults(Record.read(copy), now, ids, libraries()) == []


def test_an_answer_under_an_id_that_evidence_is_not_compared_with_is_said(found: Answers, ids: set[str]) -> None:
    (said,) = faults(Record.read(), {**found, "new/v1": {}}, ids, libraries())
    assert said.startswith("An answer carries `new/v1`, which `pipelines/current.py` does not name")


def test_other_libraries_are_recorded_with_what_they_compute(found: Answers, ids: set[str], copy: Path) -> None:
    """Evidence is stale by them already, whatever the rule; that they are others has to be recorded, so that this door closes again."""
    newer = {**libraries(), "numpy": "99.0"}
    now, one, asked = other(found, 0.5)
    assert len(faults(Record.read(copy), found, ids, newer)) == 1
    assert f"record by `{COMMAND}`." in faults(Record.read(copy), found, ids, newer)[0]
    assert record(copy, now, ids, newer)[0].startswith("recorded all anew with numpy 99.0")
    assert Record.read(copy).answers[one][asked] == now[one][asked]
    assert faults(Record.read(copy), now, ids, newer) == []
    with pytest.raises(SameIdError):
        record(copy, found, ids, newer)


def test_what_is_written_is_what_is_read(tmp_path: Path, found: Answers) -> None:
    Record.read().write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == FILE.read_bytes()
    assert json.loads(json.dumps(found)) == found


def test_the_command_says_what_it_did(found: Answers, ids: set[str], copy: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(protocol_record, "FILE", copy)
    monkeypatch.setattr(protocol_record, "ids_of_now", lambda _root: ids)
    for now, code in ((found, 0), (other(found, 0.1)[0], 1)):
        monkeypatch.setattr(protocol_record, "answers", lambda _root, now=now: now)
        assert protocol_record.main() == code
    said = capsys.readouterr()
    assert said.out == "Nothing to record.\n"
    assert said.err.startswith("An id that stays keeps its answers; nothing was written.\n`activity`.value under `replicates:")
    assert copy.read_bytes() == FILE.read_bytes()


def test_answers_are_plain() -> None:
    """What a missing number is, is said: 0 and False are not the same, and a sentence may be put in better words."""
    found = plain({"zero": 0.0, "none": None, "false": False, "missing": float("nan"), "note": "why", "count": np.int64(3), "tiny": 1e-17})
    assert found == {"zero": 0.0, "note": True, "count": 3, "tiny": 0.0}
    assert plain(np.array([1.0, np.nan, 3.0])) == [3, 1, 2.0, float(f"{np.sqrt((1 * 0.5 + 9 * 1.0) / 2):.8g}")]
    assert plain((1 / 3, "word", np.inf)) == [0.33333333, "word", "inf"]
