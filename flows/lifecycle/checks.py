"""Checks of a run's parameters and settings before services start, so that errors show within a second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from flows.lifecycle.config import RunConfig, resolve_options
from infra.energy.coefficients import read_coefficients
from infra.errors import BadInput
from infra.runtime.backends.registry import canonical_name, open_backend
from infra.settings import Settings

if TYPE_CHECKING:
    from tasks.corpus.documents import Layout
    from tasks.finetuning.options import Options as Tuning

OptionsT = TypeVar("OptionsT", bound=BaseModel)


def check_run(config: RunConfig, settings: Settings) -> None:
    """Check all files, backends and options that the parameters of a run and the settings name.

    Raises:
        BadInput: something cannot be used; the message says what was expected, what was found and what to do.
    """
    options = resolve_options(config, settings)
    check_backend(config.backend)
    check_settings(settings)
    from tasks.curation.options import Options as Curation
    from tasks.finetuning.options import Options as Tuning
    from tasks.inference.options import Options as Inference

    for option, paths in (("corpus", config.corpus), ("second", config.second)):
        if paths:
            check_corpus(option, paths, _options_of("curation", Curation, options).layout())
    if config.threshold is not None and "curation" not in config.stages:
        raise BadInput("--threshold is for curation, which is not among the stages; leave it out")
    if config.model:
        from tasks.model.pretrained import check_folder

        check_folder(Path(config.model).expanduser())
    if config.evaluate:
        check_text(Path(config.evaluate).expanduser())
    if "finetuning" in config.stages:
        check_tuning(_options_of("finetuning", Tuning, options))
    if "inference" in config.stages and (forms := _options_of("inference", Inference, options).exports):
        from tasks.inference.exports import require_packages

        require_packages(forms)


def _options_of(stage: str, model: type[OptionsT], options: Mapping[str, Any]) -> OptionsT:
    return model.model_validate({k: v for k, v in options.get(stage, {}).items() if k in model.model_fields})


def check_tuning(options: Tuning) -> None:
    """Check the rows, the chat template and the preferences of fine-tuning, which comes after the training.

    Raises:
        BadInput: a file cannot be read or has a malformed row or too few, or `trl` is not installed.
    """
    if options.data:
        from tasks.finetuning.target import read_file

        read_file(options)
    if options.preferences:
        from tasks.finetuning.preference import read_pairs

        read_pairs(options)


def check_backend(name: str) -> None:
    """Check whether the backend exists, and for hardware whether the configured account can reach it.

    Raises:
        BadInput: there is none, or the platform refuses the account or knows no such device.
    """
    if canonical_name(name).startswith("ibm:"):
        from infra.runtime.backends.ibm.account import ADVICE, find_account

        if find_account() is None:
            raise BadInput(f"{name} needs an account of the quantum platform and none was found; {ADVICE}")
        open_backend(name)


def check_settings(settings: Settings) -> None:
    """Check whether the files and folders named by the settings exist.

    Raises:
        BadInput: a country, a device or a file that does not exist.
    """
    carbon = read_coefficients()[0].carbon
    for country in (settings.country, settings.qpu_country):
        carbon.intensity(country)
    if settings.carbon_series is not None and not settings.carbon_series.expanduser().is_file():
        raise BadInput(f"carbon_series names {settings.carbon_series}, which is no file; give a CSV or Parquet file")


def check_corpus(option: str, paths: Sequence[str], layout: Layout) -> None:
    """Check whether at least one document can be read from files and folders.

    Args:
        option: what they were given by, for the message.
        paths: the files and folders.
        layout: where documents are in the files.

    Raises:
        BadInput: a path is not there, or none of them holds a document.
    """
    from tasks.corpus.formats.kinds import KNOWN, UNKNOWN, Skipped, expanded, recognise, refusal
    from tasks.corpus.read import Reader

    given: list[Path] = []
    missing: list[str] = []
    for path in paths:
        try:
            given += expanded(path)
        except FileNotFoundError:
            missing.append(path)
    if missing:
        raise BadInput(f"no such file or folder: {', '.join(missing)}; give --{option} what is there")
    for one in given:
        found = recognise(one.name, one, layout.form) if one.is_file() else None
        if isinstance(found, Skipped):
            raise BadInput(refusal(one, found))
    reader = Reader("base", layout)
    batches = reader.read(given)
    if any(document.text.strip() for batch in batches for document in batch):
        return
    where = ", ".join(paths)
    others = sum(item.reason == UNKNOWN for item in reader.quarantined)
    if others == len(reader.quarantined):
        aside = f", {others} files of other kinds" if others else ""
        raise BadInput(f"no text in {where}{aside}; give --{option} files or folders of {', '.join(KNOWN)}")
    reasons = ", ".join(f"{name} ({n})" for name, n in Counter(q.reason for q in reader.quarantined).items())
    first = reader.quarantined[0]
    raise BadInput(f"no document can be read from {where}: {reasons}; {first.path}: {first.detail}")


def check_text(path: Path) -> None:
    """Check whether a file of plain text can be read.

    Raises:
        BadInput: it cannot.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            found = stream.read(4096).strip()
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); give a text file") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); give --evaluate a text file") from None
    if not found:
        raise BadInput(f"{path} begins with nothing but blanks; give --evaluate a text file")
