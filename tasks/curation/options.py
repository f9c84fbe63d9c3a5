"""Options of the stage `curation`; the defaults are the demo profile."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Settings of the stage.

    Attributes:
        corpus: files or folders of the base domain; empty = the shipped documentation.
        second: files or folders of the second domain; empty = the shipped licence texts.
        text_column: column or field that holds the text; empty = `text`, `content` or `body`.
        id_column: column or field that names a document; empty = `doc_id` or `id`, else path and row.
        weight_column: column or field whose positive number says what a document is worth among near
            duplicates; empty = the square root of its words. Without such a number a document is worth next to
            nothing.
        alone: whether the corpus is curated for itself: no shipped second domain is read, and nothing is
            removed by meaning, so that every removed document has a kept witness at or above the threshold.
        truth: Parquet file of true near-duplicate pairs (a, b, jaccard) of the second domain, complete from the
            threshold on; empty = the shipped one where the shipped texts are read.
        shard_mb: MiB of files that are read as one part of the stored index; memory follows it.
        permutations: values of a MinHash signature.
        bands: bands of a signature; 0 = what the threshold needs.
        english: whether a text needs English stop words.
        languages: languages, by ISO 639-1 code, in one of which a text has to be; empty = not asked.
        fineweb: whether FineWeb's rules against menus and lists are asked too; they are made for web pages.
        own_rules: further rules, each as `package.module:function`.
        redact: whether addresses and numbers that name a person are replaced.
        min_words: shortest document.
        max_words: longest document.
        min_alphabetic: least share of words with a letter. Gopher's .8 is for web pages; documentation with
            code and tables needs less.
        threshold: Jaccard similarity from which two documents are near duplicates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: tuple[str, ...] = ()
    second: tuple[str, ...] = ()
    text_column: str = ""
    id_column: str = ""
    weight_column: str = ""
    alone: bool = False
    truth: str = ""
    shard_mb: int = Field(16, ge=1)
    permutations: int = Field(128, ge=16, le=1024)
    bands: int = Field(0, ge=0)
    english: bool = True
    languages: tuple[str, ...] = ()
    fineweb: bool = False
    own_rules: tuple[str, ...] = ()
    redact: bool = False
    min_words: int = Field(50, ge=1)
    max_words: int = Field(100_000, ge=1)
    min_alphabetic: float = Field(0.6, ge=0, le=1)
    threshold: float = Field(0.7, gt=0, le=1)
