"""Where the served model comes from: a folder, or a name in the model registry."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from infra.errors import BadInput
from infra.tracking import open_tracking
from tasks.model.recipe import Form

_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True)
class Found:
    """A model as it is now.

    Attributes:
        folder: its files.
        version: its name in the log and in answers, empty for the digest of its weights.
        form: number format that its model card chose.
    """

    folder: Path
    version: str
    form: Form = "fp32"


@dataclass(frozen=True)
class Source:
    """What was asked to be served.

    Attributes:
        name: of the model in the API.
        asked: a folder, or an address of the registry.
        registered: the name in the registry, empty for a folder.
        alias: an alias there.
        version: a version there.
        label: version of a folder that goes into the log, empty for the digest of its weights.
    """

    name: str
    asked: str
    registered: str = ""
    alias: str = ""
    version: str = ""
    label: str = ""

    @classmethod
    def parse(cls, asked: str, name: str = "", label: str = "") -> Source:
        """Read `models:/NAME@ALIAS`, `models:/NAME/VERSION` or a folder.

        Raises:
            BadInput: it is neither.
        """
        if asked.startswith("models:"):
            found = _REGISTERED.fullmatch(asked)
            if not found:
                raise BadInput(f"a registered model is named models:/NAME@ALIAS or models:/NAME/VERSION, not {asked!r}")
            return cls(name or found["name"], asked, found["name"], found["alias"] or "", found["version"] or "", label)
        folder = Path(asked).expanduser().absolute()
        for needed in ("config.json", "tokenizer.json"):
            if not (folder / needed).is_file():
                raise BadInput(f"{folder} is no model folder: it has no {needed}; give one saved by transformers")
        return cls(name or "ketcycle", str(folder), label=label)

    @property
    def moves(self) -> bool:
        """Whether another model may come in its place."""
        return bool(self.alias)

    def find(self) -> Found:
        """Return the model as it is now.

        Raises:
            BadInput: the registry has no such model, alias or version.
        """
        if not self.registered:
            return Found(Path(self.asked), self.label)
        version, folder, tags = open_tracking().model(self.registered, alias=self.alias, version=self.version)
        forms: dict[str, Form] = {"bf16": "bf16", "int8": "int8"}
        return Found(folder, f"{self.registered}/{version}", forms.get(tags.get("form", ""), "fp32"))
