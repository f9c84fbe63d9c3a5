from __future__ import annotations

import pytest
from pydantic import ValidationError

from flows.config import RunConfig, load_profile
from infra.errors import BadInput
from tasks.stage import STAGES


def test_stages_come_in_lifecycle_order() -> None:
    assert RunConfig(run_id="a", stages=("training", "curation")).stages == ("curation", "training")
    assert RunConfig(run_id="a").stages == STAGES


@pytest.mark.parametrize("bad", [{"run_id": "../up"}, {"run_id": "A"}, {"run_id": "a", "stages": ("cooking",)}])
def test_bad_names_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RunConfig.model_validate(bad)


@pytest.mark.parametrize("name", ["demo", "smoke"])
def test_profiles_name_known_stages(name: str) -> None:
    assert set(load_profile(name)) <= {*STAGES, "settle"}


def test_an_unknown_profile_lists_those_there_are() -> None:
    with pytest.raises(BadInput, match="demo, smoke"):
        load_profile("huge")
