from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.metrics.statistic import Statistic
from pipelines.scores import Scored, read_scores, write_scores


def test_a_statistic_comes_back_as_it_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=(3, 3))
    written = [
        Scored("row", "main", "task", metric, "rule", 0.5, "", Statistic(0.7, ("a", "b", "c"), rng.random(3), np.full(3, 1 / 3), 9, 3, held))
        for metric, held in (("of images", None), ("of pairs", pairs))
    ]
    write_scores(tmp_path, written, [])
    alone, together = read_scores(tmp_path)
    assert alone.statistic.pairs is None
    assert together.statistic.pairs is not None
    np.testing.assert_array_equal(together.statistic.pairs, pairs)
    np.testing.assert_array_equal(together.statistic.without, written[1].statistic.without)
    assert (together.statistic.units, together.statistic.value, together.metric) == (("a", "b", "c"), 0.7, "of pairs")
