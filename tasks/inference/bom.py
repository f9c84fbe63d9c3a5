"""The bill of materials of a registered model, in SPDX 3.0.1 with its AI and data-set profiles (JSON-LD).

It names the model with its quality and the energy of making it, every text it learned from with its size and licence,
and the libraries that made it. Written with the bindings that the SPDX project generates from its specification; they
refuse what the specification does not allow.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from spdx_python_model import v3_0_1 as spdx

from infra.lake import sha256

NAME = "model.spdx.json"
LIBRARIES = ("torch", "transformers", "peft", "tokenizers")
JOULES_PER_KWH = 3.6e6
MADE = ("training", "finetuning")  # stages of which the specification has energy of its own
TUNED = ("finetuning",)  # of a model that was given: the stage `training` only scores it


def bill_of_materials(
    name: str,
    facts: Mapping[str, Any],
    about: Mapping[str, Any],
    licences: Mapping[str, str],
    folder: Path,
    created: datetime,
) -> bytes:
    """Return the document as JSON-LD.

    Args:
        name: of the registered model.
        facts: of the stage `inference`.
        about: `run`, `version`, `base`, `sources` and `energy`, as for `card.model_card`; `given` is the folder of the
            base model, if there is one.
        licences: licence of each domain, and of the base model as `model`, as the user states them: SPDX expressions.
        folder: the model.
        created: when the document is made, UTC.
    """
    bill = _Bill(f"urn:ketcycle:{about['run']}:{name}", created)
    model = bill.element(spdx.ai_AIPackage, "model", name)
    model.software_packageVersion = str(about["version"])
    model.software_primaryPurpose = spdx.software_SoftwarePurpose.model
    model.ai_typeOfModel = ["causal language model"]
    model.ai_informationAboutTraining = f"run {about['run']} of ketcycle; {about['energy']['sentence']}"
    model.verifiedUsing = [_hash(path) for path in sorted(folder.glob("*.safetensors"))]
    model.ai_metric = list(_metrics(facts.get("bits_per_byte", {})))
    model.ai_energyConsumption = _energy(
        about["energy"]["entries"], facts.get("forms"), TUNED if about["base"] else MADE
    )
    model.comment = (
        "Energy is modelled from CPU time and memory unless the sentence on training says measured: medians, narrow "
        "boundary, arms that ran beside for comparison included. Inference: 1,000 tokens written."
    )
    if about["base"]:
        base = bill.element(spdx.ai_AIPackage, "base", about["base"])
        base.software_primaryPurpose = spdx.software_SoftwarePurpose.model
        base.verifiedUsing = [_hash(path) for path in sorted(about["given"].glob("*.safetensors"))]
        bill.licensed(base, licences.get("model", ""))
        bill.related(model, spdx.RelationshipType.descendantOf, [base])
    texts = [bill.text(number, row) for number, row in enumerate(about["sources"])]
    for text, row in zip(texts, about["sources"], strict=True):
        bill.licensed(text, licences.get(row["domain"], ""))
    libraries = [bill.library(library) for library in LIBRARIES]
    if texts:
        bill.related(model, spdx.RelationshipType.trainedOn, texts)
    bill.related(model, spdx.RelationshipType.usesTool, libraries)
    return bill.written(model)


class _Bill:
    """The elements of a document."""

    def __init__(self, namespace: str, created: datetime) -> None:
        self._namespace = namespace
        self._elements: list[Any] = []
        self._info = spdx.CreationInfo()
        self._info.specVersion = "3.0.1"
        self._info.created = created.replace(microsecond=0)
        maker = self.element(spdx.SoftwareAgent, "maker", "ketcycle")
        self._info.createdBy = [maker]

    def element(self, kind: Any, identifier: str, name: str = "") -> Any:
        """Add an element of a kind."""
        made = kind()
        made._id = f"{self._namespace}#{identifier}"  # noqa: SLF001  (the bindings' public name of the IRI)
        made.creationInfo = self._info
        if name:
            made.name = name
        self._elements.append(made)
        return made

    def text(self, number: int, row: Mapping[str, Any]) -> Any:
        """Add a text that the model learned from."""
        made = self.element(spdx.dataset_DatasetPackage, f"text-{number}", f"{row['domain']}: {row['source']}")
        made.dataset_datasetType = [spdx.dataset_DatasetType.text]
        made.dataset_datasetSize = int(row["bytes"])
        made.software_primaryPurpose = spdx.software_SoftwarePurpose.data
        if "sha256" in row:
            made.description = f"a file of {row['documents']} rows, {row['bytes']} bytes"
            made.verifiedUsing = [_digest(row["sha256"])]
        else:
            made.description = f"{row['documents']} documents, {row['bytes']} bytes kept after curation"
        made.originatedBy = [self._elements[0]]
        return made

    def library(self, library: str) -> Any:
        """Add an installed library."""
        made = self.element(spdx.software_Package, f"library-{library}", library)
        made.software_packageVersion = version(library)
        made.software_packageUrl = f"pkg:pypi/{library}@{version(library).split('+')[0]}"
        made.software_primaryPurpose = spdx.software_SoftwarePurpose.library
        return made

    def licensed(self, text: Any, expression: str) -> None:
        """State the licence of a text; without one, that none was stated."""
        number = len(self._elements)
        if expression:
            licence = self.element(spdx.simplelicensing_LicenseExpression, f"licence-{number}", expression)
            licence.simplelicensing_licenseExpression = expression
        else:
            licence = spdx.expandedlicensing_IndividualLicensingInfo.NoAssertionLicense
        self.related(text, spdx.RelationshipType.hasDeclaredLicense, [licence])

    def related(self, source: Any, kind: str, targets: Sequence[Any]) -> None:
        """Add a relationship."""
        made = self.element(spdx.Relationship, f"relationship-{len(self._elements)}")
        made.from_, made.relationshipType, made.to = source, kind, list(targets)

    def written(self, root: Any) -> bytes:
        """Return the document around all elements."""
        elements = list(self._elements)
        document = self.element(spdx.SpdxDocument, "document", f"{root.name} bill of materials")
        profiles = spdx.ProfileIdentifierType
        document.profileConformance = [
            profiles.core, profiles.software, profiles.ai, profiles.dataset, profiles.simpleLicensing,
        ]  # fmt: skip
        document.rootElement, document.element = [root], elements
        out = io.BytesIO()
        spdx.JSONLDSerializer().write(spdx.SHACLObjectSet([*elements, document]), out)
        return json.dumps(json.loads(out.getvalue(), object_hook=_positional), indent=1).encode()


def _positional(found: dict[str, Any]) -> dict[str, Any]:
    """Write a quantity without an exponent, which the specification's decimals do not have."""
    if "ai_energyQuantity" in found:
        found["ai_energyQuantity"] = np.format_float_positional(float(f"{float(found['ai_energyQuantity']):.6g}"))
    return found


def _hash(path: Path) -> Any:
    return _digest(sha256(path))


def _digest(value: str) -> Any:
    made = spdx.Hash()
    made.algorithm, made.hashValue = spdx.HashAlgorithm.sha256, value
    return made


def _metrics(scores: Mapping[str, Mapping[str, float]]) -> Iterator[Any]:
    """Yield the bits per byte of the model as registered: the last one that was scored without being a control."""
    names = [name for name in ("recovered", "pruned", "before") if name in scores]
    for domain, value in scores[names[0]].items() if names else ():
        made = spdx.DictionaryEntry()
        made.key, made.value = f"bits per byte, {domain}, held-out text", f"{value:.4f}"
        yield made


def _energy(entries: Sequence[Sequence[Any]], forms: Mapping[str, Any] | None, stages: Sequence[str]) -> Any:
    found = spdx.ai_EnergyConsumption()
    for stage in stages:
        if joules := sum(entry[2][1] for entry in entries if entry[0] == stage):
            setattr(found, f"ai_{stage}EnergyConsumption", [_kwh(joules)])
    if forms:
        found.ai_inferenceEnergyConsumption = [_kwh(forms["rows"][forms["chosen"]]["j_per_1000_written"][1])]
    return found


def _kwh(joules: float) -> Any:
    made = spdx.ai_EnergyConsumptionDescription()
    made.ai_energyQuantity = joules / JOULES_PER_KWH
    made.ai_energyUnit = spdx.ai_EnergyUnitType.kilowattHour
    return made
