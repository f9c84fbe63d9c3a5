"""Evaluation sets of the user's own: files by name, each record of which must not be in the training text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from infra.errors import BadInput
from tasks.corpus.documents import Layout
from tasks.corpus.formats.kinds import expanded
from tasks.corpus.read import Reader

# Columns of the questions of published sets, tried in turn where there is no `text`, `content` or `body`.
COLUMNS = (
    *("", "question", "prompt", "problem", "query", "instruction", "input", "sentence", "premise", "passage"),
    *("sentence1", "goal", "ctx", "context", "Question", "Text", "claim", "title"),
)


def read_sets(sets: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield (set, record, text) of all records of some evaluation sets.

    Args:
        sets: file or folder of each set, by its name; `path::column` names the column of the text.

    Raises:
        BadInput: a file that does not exist, or has no text.
    """
    for name, given in sets.items():
        path, _, column = given.partition("::")
        try:
            paths = expanded(path)
        except FileNotFoundError as error:
            raise BadInput(f"preprocessing.evaluation.{name}: {error}") from None
        columns = (column,) if column else COLUMNS
        found, aside = False, ""
        for one in columns:
            reader = Reader(name, Layout(text_column=one))
            for batch in reader.read(paths):
                for document in batch:
                    found = True
                    yield name, document.doc_id, document.text
            if found:
                break
            aside = aside or "".join(f"; {q.path}: {q.reason} ({q.detail})" for q in reader.quarantined[:1])
        if not found:
            raise BadInput(
                f"preprocessing.evaluation.{name}: no text in {path}; name its column as {path}::COLUMN (tried "
                f"{', '.join(filter(None, columns)) or 'text, content, body'}){aside}"
            )
