"""Options of the stage `preprocessing`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Options(BaseModel):
    """Settings of the stage.

    Attributes:
        model: folder of a pretrained model whose tokenizer is used; empty = a new tokenizer is trained.
        tokenizer: kind of the new tokenizer: `bpe` or `wordpiece`, both over bytes.
        vocab_size: size of the vocabulary, including the end-of-text token and the bytes (WordPiece: at least 513).
        context: context length of the model in tokens.
        ngram: length in words of the n-grams by which contamination is found.
        overlap: share of n-grams from which a training document counts as contaminated. If that share of its own
            n-grams is held out, the document is dropped; if it holds that share of one held-out document, the shared
            passages are cut.
        common: number of documents above which a shared n-gram counts as a notice or a template and is ignored.
        evaluation: evaluation sets that must not be in the training text: file or folder of each by its name, with
            `path::column` where the text is in no usual column. Shared passages are listed in `preprocessing/spans`.
        pieces: number of remaining pieces above which a document is dropped instead of cut.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = ""
    tokenizer: Literal["bpe", "wordpiece"] = "bpe"
    vocab_size: int = Field(4096, ge=257, le=65536)
    context: int = Field(128, ge=8, le=8192)
    ngram: int = Field(13, ge=2, le=50)
    overlap: float = Field(0.3, gt=0, le=1)
    common: int = Field(10, ge=1)
    evaluation: dict[str, str] = Field(default_factory=dict)
    pieces: int = Field(10, ge=1)

    @field_validator("evaluation")
    @classmethod
    def _absolute(cls, given: dict[str, str]) -> dict[str, str]:
        for name, path in given.items():
            if not path.startswith(("/", "~")):  # workers run in other folders
                raise ValueError(f"{name}: give an absolute path, not {path}")
        return given
