"""What pycytominer's `normalize(method="spherize")` gives, for the parity tests of `alignment.spherize`.

It changed its meaning between versions and is no dependency here, so each version answers in a throw-away environment:

    for version in 1.2.2 1.6.0 1.7.1; do
      uv venv --python 3.11 env-$version
      uv pip install --python env-$version/bin/python pycytominer==$version
      env-$version/bin/python tests/pipelines/metrics/golden/spherize.py > tests/pipelines/metrics/golden/spherize-$version.json
    done
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

#: name -> controls, other profiles, features
SHAPES = {"many controls": (14, 3, 4), "as many controls as features": (5, 2, 5), "few controls": (5, 2, 7)}
SETTINGS = [("ZCA-cor", 1e-6), ("ZCA-cor", 1e-3), ("ZCA", 1e-6)]


def answers() -> dict[str, Any]:
    """Profiles of correlated features far from 0, and what the installed version makes of them."""
    from pycytominer import normalize

    rng = np.random.default_rng(0)
    cases = []
    for name, (controls, others, d) in SHAPES.items():
        n = controls + others
        x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3 * rng.normal(size=d)
        kind = ["negcon"] * controls + ["trt"] * others
        columns = [f"Cells_{i}" for i in range(d)]
        table = pd.DataFrame(x, columns=columns).assign(Metadata_control_type=kind)
        for method, epsilon in SETTINGS:
            found = normalize(
                table,
                features=columns,
                meta_features=["Metadata_control_type"],
                samples="Metadata_control_type == 'negcon'",
                method="spherize",
                spherize_method=method,
                spherize_epsilon=epsilon,
            )
            case = {"name": name, "controls": controls, "method": method, "epsilon": epsilon}
            cases.append(case | {"x": x.tolist(), "expected": found[columns].to_numpy().tolist()})
    return {"pycytominer": version("pycytominer"), "numpy": version("numpy"), "cases": cases}


if __name__ == "__main__":
    found = answers()
    lines = [json.dumps(case) for case in found.pop("cases")]
    print(json.dumps(found)[:-1] + ', "cases": [\n' + ",\n".join(lines) + "\n]}")
