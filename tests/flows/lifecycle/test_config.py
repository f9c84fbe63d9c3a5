from __future__ import annotations

import pytest
from pydantic import ValidationError

from flows.lifecycle.config import RunConfig, load_profile
from infra.errors import BadInput
from tasks.contract import STAGES


def test_stages_come_in_lifecycle_order() -> None:
    assert RunConfig(run_id="a", stages=("training", "curation")).stages == ("curation", "training")
    assert RunConfig(run_id="a").stages == STAGES


@pytest.mark.parametrize("bad", [{"run_id": "../up"}, {"run_id": "A"}, {"run_id": "a", "stages": ("cooking",)}])
def test_bad_names_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RunConfig.model_validate(bad)


@pytest.mark.parametrize("name", ["demo", "smoke", "pretrained", "full"])
def test_profiles_name_known_stages_and_options(name: str) -> None:
    assert set(load_profile(name)) <= {*STAGES, "settle"}  # which has checked the options


def test_a_pretrained_model_has_a_profile_of_its_own_unless_one_is_named() -> None:
    assert RunConfig().profile == "demo"
    assert RunConfig(model="m").profile == "pretrained"
    assert RunConfig(model="m", profile="smoke").profile == "smoke"


def test_an_unknown_profile_lists_those_there_are() -> None:
    with pytest.raises(BadInput, match="demo, full, pretrained, smoke"):
        load_profile("huge")
