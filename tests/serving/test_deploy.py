"""What can be said of the files in docs/deploy without a cluster: they agree with each other and with the service."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.settings import PREFIX, Settings

DEPLOY = Path(__file__).resolve().parents[2] / "docs" / "deploy"


@pytest.fixture(scope="module")
def container() -> dict[str, Any]:
    *_, service = yaml.safe_load_all((DEPLOY / "kserve.yaml").read_text())
    (found,) = service["spec"]["predictor"]["containers"]
    return dict(found)


def test_the_images_user_is_a_number_that_is_not_root(container: dict[str, Any]) -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    (user,) = re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE)
    assert user.isdecimal()
    assert int(user) > 0
    assert f"--uid {user} " in dockerfile
    assert (container["securityContext"]["runAsNonRoot"], container["securityContext"]["runAsUser"]) == (True, int(user))


def test_the_cluster_gives_the_cores_that_the_service_is_told_of(container: dict[str, Any]) -> None:
    given = {entry["name"]: entry["value"] for entry in container["env"] if entry["name"].startswith(PREFIX)}
    settings = Settings.from_environment(given)
    assert (settings.processes > 0, settings.threads > 0) == (True, True)
    assert settings.workers * settings.cores == int(container["resources"]["limits"]["cpu"])
    # it must start with those, and beyond loopback
    assert settings.token_file.startswith(next(m["mountPath"] for m in container["volumeMounts"] if m["name"] == "token"))


def test_the_unit_sets_what_the_service_knows() -> None:
    unit = (DEPLOY / "blankslide.service").read_text()
    given = dict(re.findall(rf"^Environment=({PREFIX}\w+)=(.*)$", unit, re.MULTILINE))
    assert Settings.from_environment(given).token_file
