"""A promotion is taken back to the version that carried it before; who carried it, when and why stays in the registry."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.errors import GateRefusedError, NotFoundError, ParamsError
from registry.evidence import Scorecard
from registry.promote import outdated, promote, review
from registry.promotions import PROMOTION, ROLLBACK, WITHDRAWAL, Movement, earlier, movements
from registry.registration import register
from registry.rollback import rollback
from registry.staleness import Reason, Staleness
from registry.store import Store
from tests.registry.scorecards import make_bundle

STALE = Staleness((Reason("library", "extract", "its vectors were made with numpy 1.0"),))


def stale(_card: Scorecard, _hash: str) -> Staleness:
    return STALE


def fresh(_card: Scorecard, _hash: str) -> Staleness:
    return Staleness()


def promoted(store: Store, folder: Path, versions: int) -> None:
    for seed in range(versions):
        register(store, make_bundle(folder / str(seed), seed=seed))
        promote(store, f"simclr/{seed + 1}")


def history(store: Store) -> list[tuple[str, int]]:
    return [(each.word, each.number) for each in movements(store.model_tags("simclr"))]


def holder(store: Store) -> int:
    return store.version("simclr@promoted").number


def test_it_goes_back_further_each_time_and_never_to_what_was_left(store: Store, tmp_path: Path) -> None:
    promoted(store, tmp_path, 3)
    assert history(store) == [(PROMOTION, 1), (PROMOTION, 2), (PROMOTION, 3)]
    done = rollback(store, "simclr", reason="plate 7 comes out as noise")
    assert (str(done.version), str(done.left), holder(store)) == ("simclr/2", "simclr/3", 2)
    assert done.sentence.startswith("The alias `promoted` of `simclr` went back from `simclr/3` to `simclr/2`, promoted on 20")
    assert done.sentence.endswith("UTC: plate 7 comes out as noise.")
    one, two, three = store.versions("simclr")
    assert two.tags["gate.decision"] == "promoted"
    assert two.tags["gate.reasons"].startswith("Rolled back from `simclr/3`: plate 7 comes out as noise. On `chirality`")
    assert three.tags["gate.decision"] == "rolled back"
    assert three.tags["gate.reasons"] == "The alias `promoted` went back to `simclr/2`: plate 7 comes out as noise."
    assert "promoted" not in one.aliases + three.aliases
    assert outdated(two) == []
    rollback(store, "simclr")
    assert holder(store) == 1
    with pytest.raises(NotFoundError, match="There is no version of `simclr` promoted before `simclr/1`"):
        rollback(store, "simclr")
    promote(store, "simclr/3")
    rollback(store, "simclr")
    assert holder(store) == 1
    assert [word for word, _ in history(store)] == [PROMOTION] * 3 + [ROLLBACK] * 2 + [PROMOTION, ROLLBACK]


def test_another_version_may_be_named_if_it_was_promoted(store: Store, tmp_path: Path) -> None:
    promoted(store, tmp_path, 3)
    register(store, make_bundle(tmp_path / "new", seed=9))
    assert str(rollback(store, "simclr", to=1).version) == "simclr/1"
    with pytest.raises(ParamsError, match="`simclr/1` carries the alias"):
        rollback(store, "simclr", to=1)
    with pytest.raises(NotFoundError, match="no version promoted earlier `simclr/4`. Known: `simclr/2`, `simclr/3`".replace(".", r"\.")):
        rollback(store, "simclr", to=4)
    assert str(rollback(store, "simclr", to=3).version) == "simclr/3"
    with pytest.raises(NotFoundError, match="no registered model `nobody`"):
        rollback(store, "nobody")
    with pytest.raises(ParamsError, match="Expected the name of a registered model, got `simclr/2`"):
        rollback(store, "simclr/2")


def test_to_stale_evidence_only_by_force_and_with_a_reason(store: Store, tmp_path: Path) -> None:
    promoted(store, tmp_path, 2)
    with pytest.raises(GateRefusedError, match=r"`simclr` stays at `simclr/2`: the gate refuses `simclr/1` now\. Its evidence on `culture` is stale"):
        rollback(store, "simclr", judge=stale)
    assert holder(store) == 2
    assert history(store) == [(PROMOTION, 1), (PROMOTION, 2)]
    assert store.version("simclr/1").tags["gate.decision"] == "refused"
    with pytest.raises(ParamsError, match="Expected `--reason` with `--force`"):
        rollback(store, "simclr", force=True, judge=stale)
    done = rollback(store, "simclr", reason="the service answers nonsense", force=True, judge=stale)
    assert holder(store) == 1
    assert done.sentence.endswith(": the service answers nonsense. The gate refuses it now; it was forced.")
    version = store.version("simclr@promoted")
    assert version.tags["gate.decision"] == "forced"
    assert "numpy 1.0" in version.tags["gate.reasons"]
    assert "Forced: Its evidence on `culture` is stale" in movements(store.model_tags("simclr"))[-1].reason
    # it is about the evidence the version has: nothing was changed since
    assert outdated(version) == []
    assert review(store, version, judge=fresh).passed
    assert store.version("simclr@promoted").tags["gate.decision"] == "promoted"


def test_what_the_registrys_tags_say_counts_where_nobody_can_look(store: Store, tmp_path: Path) -> None:
    promoted(store, tmp_path, 2)
    store.tag_version(store.version("simclr/1"), {"stale": "true", "stale.culture": "the plates are others"})
    with pytest.raises(GateRefusedError, match="the plates are others"):
        rollback(store, "simclr")
    assert holder(store) == 2


def test_after_a_withdrawal_it_goes_to_the_version_before(store: Store, tmp_path: Path) -> None:
    promoted(store, tmp_path, 2)
    assert not review(store, store.version("simclr/2"), judge=stale).passed
    assert history(store)[-1] == (WITHDRAWAL, 2)
    done = rollback(store, "simclr")
    assert holder(store) == 1
    assert "went back, which no version carried, to `simclr/1`" in done.sentence


def test_promotions_from_before_they_were_recorded_count(store: Store, tmp_path: Path) -> None:
    promoted(store, tmp_path, 2)
    forget(store)
    assert history(store) == []
    later = datetime.now(UTC) + timedelta(seconds=5)
    store.tag_version(store.version("simclr/2"), {"gate.decided_at": later.isoformat(timespec="seconds")})
    assert str(rollback(store, "simclr").version) == "simclr/1"
    assert sorted(history(store)) == [(PROMOTION, 1), (PROMOTION, 2), (ROLLBACK, 1)]


def test_a_rollback_that_was_killed_is_done_by_the_next(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    promoted(store, tmp_path, 3)
    with monkeypatch.context() as patched:
        patched.setattr(Store, "move_alias", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rollback(store, "simclr")
    assert holder(store) == 3
    assert str(rollback(store, "simclr").version) == "simclr/2"


def test_a_promotion_again_is_no_movement(store: Store, tmp_path: Path) -> None:
    promoted(store, tmp_path, 1)
    promote(store, "simclr")
    assert history(store) == [(PROMOTION, 1)]


def test_the_record_survives_in_postgresql(postgresql_uri: str, tmp_path: Path) -> None:
    store = Store(postgresql_uri, str(tmp_path / "artifacts"))
    promoted(store, tmp_path, 2)
    rollback(store, "simclr", reason="so " * 3000)
    assert history(Store(postgresql_uri)) == [(PROMOTION, 1), (PROMOTION, 2), (ROLLBACK, 1)]


def at(*moves: tuple[str, int]) -> list[Movement]:
    start = datetime(2026, 7, 30, tzinfo=UTC)
    return [Movement(start + timedelta(minutes=i), word, number, f"Reason {i}.") for i, (word, number) in enumerate(moves)]


@pytest.mark.parametrize(
    ("moves", "now", "expected"),
    [
        ([], None, []),
        ([], 1, []),
        ([(PROMOTION, 1), (PROMOTION, 2), (PROMOTION, 3)], 3, [2, 1]),
        ([(PROMOTION, 1), (PROMOTION, 2), (PROMOTION, 1)], 1, [2]),
        ([(PROMOTION, 1), (PROMOTION, 2), (PROMOTION, 3), (ROLLBACK, 2)], 2, [1]),
        # recorded and not carried out
        ([(PROMOTION, 1), (PROMOTION, 2), (PROMOTION, 3), (ROLLBACK, 2)], 3, [2, 1]),
        ([(PROMOTION, 1), (PROMOTION, 2)], 1, []),
        ([(PROMOTION, 1), (PROMOTION, 2), (WITHDRAWAL, 2)], None, [1]),
        ([(PROMOTION, 1), (PROMOTION, 2), (PROMOTION, 3), (ROLLBACK, 1), (ROLLBACK, 3)], 3, [1]),
        # version 2 was deleted
        ([(PROMOTION, 1), (PROMOTION, 2), (PROMOTION, 4)], 4, [1]),
    ],
)
def test_what_can_be_gone_back_to(moves: Sequence[tuple[str, int]], now: int | None, expected: list[int]) -> None:
    present = [1, 3, 4] if (PROMOTION, 4) in moves else [1, 2, 3]
    assert earlier(at(*moves), now, present) == expected


def test_movements_are_read_as_they_were_written_and_others_are_passed_over() -> None:
    written = at((PROMOTION, 1), (PROMOTION, 12), (ROLLBACK, 1), (WITHDRAWAL, 1))
    tags = {key: value for each in reversed(written) for key, value in each.as_tag().items()}
    assert movements(tags) == written
    assert (
        movements(tags | {"promotion.yesterday": "promoted 3: so", "promotion.20260730T000000.000000Z": "somebody's note", "stale": "no"})
        == written[1:]
    )
    assert len(Movement(written[0].moment, PROMOTION, 1, "x" * 9000).as_tag()["promotion.20260730T000000.000000Z"]) < 1100


def forget(store: Store) -> None:
    """As a registry was before movements were recorded."""
    from mlflow import MlflowClient

    client = MlflowClient(store.uri, store.uri)
    for key in store.model_tags("simclr"):
        if key.startswith("promotion."):
            client.delete_registered_model_tag("simclr", key)


def interrupted(*_arguments: object) -> None:
    raise KeyboardInterrupt
