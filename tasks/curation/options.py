"""Options of the stage `curation`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from tasks.corpus.documents import Layout


class Options(BaseModel):
    """Settings of the stage.

    Attributes:
        corpus: files or folders of the base domain; empty = the shipped documentation.
        second: files or folders of the second domain; empty = the shipped licence texts.
        text_column: column of the text, or a dotted path into nested fields; empty = `text`, `content` or `body`.
        id_column: column of the id; empty = `doc_id` or `id`, else path and row.
        weight_column: column with the weight of each document, a positive number: the heaviest of near duplicates is
            kept. A document without a weight has almost none. Empty = the square root of its number of words.
        columns: columns that are kept beside the text; empty = all.
        list_rows: whether each item of a list of texts is a document; else the items are joined by empty lines.
        form: format of all files (`parquet`, `arrow`, `jsonl`, `json`, `csv`, `tsv`, `text`, `html`, `warc`); empty =
            by their endings, else by their first bytes.
        max_line_mb: maximum size of a line of JSON or CSV in MiB; a longer line is skipped and reported.
        alone: whether the corpus is curated on its own: no shipped second domain is read, and nothing is removed by
            meaning, so that every removed document has a kept document at or above the threshold of similarity.
        truth: Parquet file of true near-duplicate pairs (a, b, jaccard) of the second domain, complete from the
            threshold on; empty = the shipped one where the shipped texts are read.
        shard_mb: MiB of input files per shard of the stored index; peak memory grows with it.
        permutations: number of hash values of a MinHash signature.
        bands: number of LSH bands of a signature; 0 = as many as the threshold needs.
        rules: quality rules: `none`, `prose`, `web`, `code`, or a YAML file of rules and thresholds. With `code`,
            source files are read from folders.
        languages: accepted languages, as ISO 639-1 codes; `any` = all; empty = the language is not checked, but
            `prose` and `web` look for English stop words.
        own_rules: further rules, each as `package.module:function`.
        min_words: minimum number of words of a document; unset = the value of the rules.
        max_words: maximum number of words of a document; unset = the value of the rules.
        min_alphabetic: minimum share of words with a letter; unset = the value of the rules.
        redact: whether e-mail and public IP addresses, telephone and card numbers are replaced in the texts.
        ignore_case: whether texts that differ in case alone are exact copies.
        threshold: Jaccard similarity from which two documents are near duplicates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: tuple[str, ...] = ()
    second: tuple[str, ...] = ()
    text_column: str = ""
    id_column: str = ""
    weight_column: str = ""
    columns: tuple[str, ...] = ()
    list_rows: bool = False
    form: Literal["", "parquet", "arrow", "jsonl", "json", "csv", "tsv", "text", "html", "warc"] = ""
    max_line_mb: int = Field(32, ge=1)
    alone: bool = False
    truth: str = ""
    shard_mb: int = Field(16, ge=1)
    permutations: int = Field(128, ge=16, le=1024)
    bands: int = Field(0, ge=0)
    rules: str = "prose"
    languages: tuple[str, ...] = ()
    own_rules: tuple[str, ...] = ()
    min_words: int | None = Field(None, ge=0)
    max_words: int | None = Field(None, ge=1)
    min_alphabetic: float | None = Field(None, ge=0, le=1)
    redact: bool = False
    ignore_case: bool = False
    threshold: float = Field(0.7, gt=0, le=1)

    def layout(self) -> Layout:
        """Return where documents are in the files."""
        from tasks.corpus.documents import Layout  # imports pyarrow, which options alone do not need

        return Layout(
            text_column=self.text_column,
            id_column=self.id_column,
            weight_column=self.weight_column,
            columns=self.columns,
            list_rows=self.list_rows,
            form=self.form,
            code=self.rules == "code",
            max_line=self.max_line_mb * 2**20,
        )
