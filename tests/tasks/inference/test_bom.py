from __future__ import annotations

import io
import json
import re
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from spdx_python_model import v3_0_1 as spdx

from tasks.inference.bom import JOULES_PER_KWH, bill_of_materials

FACTS = {
    "bits_per_byte": {"before": {"base": 2.0}, "pruned": {"base": 2.1}, "unpruned_same_compute": {"base": 1.9}},
    "forms": {"chosen": "int8", "rows": {"int8": {"j_per_1000_written": [1.0, 2.2, 5.0]}}},
}
ABOUT = {
    "run": "r",
    "version": "inference/model@1",
    "base": "",
    "sources": [
        {"domain": "base", "source": "manual", "documents": 3, "bytes": 99},
        {"domain": "second", "source": "wiki", "documents": 4, "bytes": 50},
    ],
    "energy": {
        "sentence": "Making the model took 40 J.",
        "entries": [
            ["training", "classical", [1, 20, 30], 4.0],
            ["training", "quantum", [1, 10, 30], 4.0],
            ["finetuning", "classical", [1, 5, 9], 1.0],
            ["run", "overhead", [1, 5, 9], 1.0],
        ],
    },
}


@pytest.fixture
def written(tmp_path: Path) -> bytes:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    made = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    return bill_of_materials("ketcycle", FACTS, ABOUT, {"base": "PSF-2.0"}, tmp_path, made)


@pytest.fixture
def read(written: bytes) -> spdx.SHACLObjectSet:
    found = spdx.SHACLObjectSet()
    spdx.JSONLDDeserializer().read(io.BytesIO(written), found)
    assert not found.missing_ids
    return found


def test_the_model_is_named_by_the_digest_of_its_weights_and_its_quality(read: spdx.SHACLObjectSet) -> None:
    (model,) = read.foreach_type(spdx.ai_AIPackage)
    assert (model.name, model.software_packageVersion) == ("ketcycle", "inference/model@1")
    assert [entry.hashValue for entry in model.verifiedUsing] == [sha256(b"weights").hexdigest()]
    assert [(entry.key, entry.value) for entry in model.ai_metric] == [
        ("bits per byte, base, held-out text", "2.1000"),
    ]


def test_energy_is_in_kilowatt_hours_and_apart_for_training_tuning_and_inference(read: spdx.SHACLObjectSet) -> None:
    (model,) = read.foreach_type(spdx.ai_AIPackage)
    energy = model.ai_energyConsumption
    for name, joules in (("training", 30), ("finetuning", 5), ("inference", 2.2)):
        (entry,) = getattr(energy, f"ai_{name}EnergyConsumption")
        assert entry.ai_energyQuantity == pytest.approx(joules / JOULES_PER_KWH, rel=1e-5)
        assert entry.ai_energyUnit == spdx.ai_EnergyUnitType.kilowattHour


def test_every_text_has_a_licence_or_says_that_none_was_stated(read: spdx.SHACLObjectSet) -> None:
    licences = {}
    for relation in read.foreach_type(spdx.Relationship):
        if relation.relationshipType == spdx.RelationshipType.hasDeclaredLicense:
            licences[relation.from_.name] = relation.to[0]
    assert licences["base: manual"].simplelicensing_licenseExpression == "PSF-2.0"
    assert str(licences["second: wiki"]).endswith("NoAssertionLicense")
    (trained,) = [r for r in read.foreach_type(spdx.Relationship) if r.relationshipType.endswith("trainedOn")]
    assert [text.dataset_datasetSize for text in trained.to] == [99, 50]


def test_numbers_and_times_are_written_as_the_specification_wants_them(written: bytes) -> None:
    graph = json.loads(written)["@graph"]
    (created,) = [entry["created"] for entry in graph if entry["type"] == "CreationInfo"]
    assert created == "2026-01-02T03:04:05Z"
    quantities = re.findall(r'"ai_energyQuantity": "([^"]*)"', written.decode())
    assert len(quantities) == 3
    assert all(re.fullmatch(r"\d+\.\d+", quantity) for quantity in quantities)


def test_a_given_model_is_named_and_its_training_is_not_counted(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "model.safetensors").write_bytes(b"given")
    file = {"domain": "data", "source": "chats.jsonl", "documents": 3, "bytes": 99, "sha256": "ab" * 32}
    about = {**ABOUT, "base": "smollm", "given": given, "sources": [file]}
    written = bill_of_materials("ketcycle", FACTS, about, {"model": "Apache-2.0"}, tmp_path, datetime.now(UTC))
    found = spdx.SHACLObjectSet()
    spdx.JSONLDDeserializer().read(io.BytesIO(written), found)
    assert not found.missing_ids
    model, base = sorted(found.foreach_type(spdx.ai_AIPackage), key=lambda package: str(package.name))
    assert (model.name, base.name) == ("ketcycle", "smollm")
    assert [entry.hashValue for entry in base.verifiedUsing] == [sha256(b"given").hexdigest()]
    assert not model.ai_energyConsumption.ai_trainingEnergyConsumption
    assert len(model.ai_energyConsumption.ai_finetuningEnergyConsumption) == 1
    related = {r.relationshipType.rpartition("/")[2]: r for r in found.foreach_type(spdx.Relationship)}
    assert (related["descendantOf"].from_, related["descendantOf"].to) == (model, [base])
    (text,) = related["trainedOn"].to
    assert [entry.hashValue for entry in text.verifiedUsing] == ["ab" * 32]
    licences = {
        r.from_.name: r.to[0] for r in found.foreach_type(spdx.Relationship) if "hasDeclared" in str(r.relationshipType)
    }
    assert licences["smollm"].simplelicensing_licenseExpression == "Apache-2.0"
