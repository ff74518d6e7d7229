"""What long work says on the way."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from pipelines.kept import Kept
from pipelines.parallel import in_parallel
from pipelines.progress import Progress


def test_forked_processes_count_together_and_what_was_done_before_is_not_speed(capfd: pytest.CaptureFixture[str]) -> None:
    progress = Progress("[extract] x", 10, "images", every_s=0.0)
    progress.skip(4)
    list(in_parallel(lambda _item: progress.advance(1), range(6), 2))
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 6
    assert sorted(int(line.split()[2]) for line in lines) == [5, 6, 7, 8, 9, 10]
    assert all(line.startswith("[extract] x: ") and " of 10 images, " in line for line in lines)


@pytest.mark.parametrize("at_end", [True, False])
def test_short_work_says_at_most_that_it_is_done(capfd: pytest.CaptureFixture[str], at_end: bool) -> None:
    progress = Progress("[x]", 2, "rows", at_end=at_end)
    progress.advance(1)
    progress.advance(1)
    assert len(capfd.readouterr().err.splitlines()) == at_end


def test_pieces_that_are_made_are_counted_and_those_that_are_kept_are_not_made_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.kept.Progress", partial(Progress, every_s=0.0))

    def made(names: str) -> list[str]:
        kept = Kept(tmp_path / ".x.work", "evaluate x", {}, ("pipelines/kept.py",))
        assert list(kept.each("scores", str.upper, {name: name for name in names}, 2, "members")) == list(names.upper())
        said = capfd.readouterr()
        return [*said.out.splitlines(), *(line.partition(",")[0] for line in said.err.splitlines())]

    assert made("ab") == ["[evaluate x] scores: 1 of 2 members", "[evaluate x] scores: 2 of 2 members"]
    assert made("abc") == ["[evaluate x] scores: 2 of 3 are kept from a run that was ended", "[evaluate x] scores: 3 of 3 members"]
