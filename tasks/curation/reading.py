"""What curation reads: the recipe of its shards by the options, the files, what is put aside, and the closing line."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from infra.errors import BadInput, NoDocuments
from tasks.corpus.documents import Layout
from tasks.corpus.filters import choose_rules, source_digest
from tasks.corpus.formats.kinds import UNKNOWN, Skipped, expanded
from tasks.corpus.sample import sample_path
from tasks.curation.index.corpus import Corpus
from tasks.curation.index.near_duplicates import choose_bands
from tasks.curation.index.search import Found
from tasks.curation.index.shards import WORTHLESS, Index, Recipe, Work, plan_shards
from tasks.curation.options import Options
from tasks.curation.outcome import EXACT

log = logging.getLogger("ketcycle.curation")


def recipe_of(options: Options) -> Recipe:
    """Return how shards are made by the options.

    Raises:
        BadInput: rules, languages or bands that there are not.
    """
    words = {"least": options.min_words, "most": options.max_words}
    length: dict[str, float] = {name: value for name, value in words.items() if value is not None}
    changes: dict[str, dict[str, float]] = {"length": length} if length else {}
    if options.min_alphabetic is not None:
        changes["alphabetic"] = {"least": options.min_alphabetic}
    try:
        rules = choose_rules(options.rules, changes, options.languages, options.own_rules)
        rules.build()  # an error is reported here, not by a worker
        bands, rows = choose_bands(options.threshold, options.permutations, options.bands)
    except ValueError as error:
        raise BadInput(str(error)) from error
    return Recipe(
        rules=rules,
        layout=options.layout(),
        redact=options.redact,
        ignore_case=options.ignore_case,
        permutations=options.permutations,
        bands=bands,
        band_rows=rows,
        own_code=source_digest(options.own_rules),
    )


def domains_of(options: Options) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return each domain, the option that names its files, and what was given."""
    domains = [("base", "corpus", options.corpus), ("second", "second", options.second)]
    return domains[:1] if options.alone and not options.second else domains


def plan_work(options: Options, recipe: Recipe, out: Path | None = None) -> tuple[list[Work], dict[str, list[Skipped]]]:
    """Return the shards of all domains, and the files that are not read, by domain; `out` is where tables go to."""
    work: list[Work] = []
    skipped: dict[str, list[Skipped]] = {}
    for domain, _, given in domains_of(options):
        try:
            paths = [path for one in given for path in expanded(one)] or [sample_path(domain)]
        except FileNotFoundError as error:
            raise BadInput(str(error)) from error
        own = recipe if given else replace(recipe, layout=Layout())
        some, skipped[domain] = plan_shards(domain, paths, own, options.shard_mb * 2**20, out)
        work += some
    return work, skipped


def exchanged(index: Index, recipe: Recipe, found: Found) -> dict[str, int]:
    """Return what the parts of a curation exchange, in bytes, and log it where there are several.

    `least` and `most` are of a shard, `keys` what the searches of the bands read, `edges` what they give.
    """
    sizes = [sum(path.stat().st_size for path in shard.folder.iterdir()) for shard in index.shards] or [0]
    facts = {"least": min(sizes), "most": max(sizes), "keys": 8 * index.size * recipe.bands}
    facts["edges"] = found.path.stat().st_size + found.crowds.stat().st_size
    if len(sizes) > 1:
        log.info(
            "%d shards of %.1f to %.1f MB; searching the bands reads %.1f MB of keys and gives %.1f MB of edges",
            len(sizes), *(facts[name] / 1e6 for name in ("least", "most", "keys", "edges")),
        )  # fmt: skip
    return facts


def put_aside(corpus: Corpus, skipped: Mapping[str, list[Skipped]]) -> pa.Table:
    """Return what was put aside, and the files that were not read."""
    aside = corpus.aside()
    rows = [
        {"domain": domain, "path": item.name, "reason": item.reason, "detail": item.ending, "record": "", "count": 1}
        for domain, some in skipped.items()
        for item in some
    ]
    return pa.concat_tables([aside, pa.Table.from_pylist(rows, aside.schema)])


def check_read(options: Options, corpus: Corpus, skipped: Mapping[str, list[Skipped]], filtered: Counter[str]) -> None:
    """Warn of what was put aside; stop with advice where a domain has no candidate, or a column is in no file."""
    aside = corpus.aside().to_pylist()
    for item in aside[:5]:
        log.warning("%s put aside: %s (%s)", item["path"], item["reason"], item["detail"])
    if len(aside) > 5:
        total = sum(item["count"] for item in aside)
        log.warning("%d put aside in all; they are in the table quarantined", total)
    if endings := Counter(item.ending for some in skipped.values() for item in some):
        log.warning("%d files not read: %s", endings.total(), _counts(endings))
    candidates, read = {shard.domain for shard in corpus.index.shards if shard.size}, corpus.total("read")
    for domain, option, _ in domains_of(options):
        if domain not in candidates:
            why = Counter[str]()
            for item in aside:
                why[item["reason"]] += item["count"] * (item["domain"] == domain)
            for one in skipped[domain]:
                why[f"{one.reason}: {one.ending}" if one.reason == UNKNOWN else one.reason] += 1
            raise NoDocuments(
                f"no usable document in the {domain} domain ({option}): {read[domain]} read; not read: "
                f"{_counts(+why) or 'nothing'}; dropped by rules: {_counts(filtered) or 'none'}. "
                + _advice(why, read[domain])
            )
    if options.id_column and not corpus.total("named").total():
        raise BadInput(f"no document has a value in {options.id_column}; name another column by --id-column")
    if options.weight_column and bool(np.all(corpus.index.gather("weights") == WORTHLESS)):
        raise BadInput(f"no document has a positive number in {options.weight_column}; name another by --weight-column")
    there = {name for shard in corpus.index.shards for name in shard.facts["columns"]}
    if missing := set(options.columns) - there:
        raise BadInput(f"no file has {', '.join(sorted(missing))}; there are {', '.join(sorted(there))} (--columns)")


def _advice(why: Counter[str], read: int) -> str:
    """Return what to do where a corpus has no document left."""
    if read:
        return "Choose other --rules, or --rules none"
    if not why:
        return "There is no file; name another folder"
    if "no text column" in why:
        return "Name the column of the text by --text-column"
    if any(reason.startswith(UNKNOWN) for reason in why):
        return "Name the format by --format, or convert the files"
    return "Give other files"


def closing_line(facts: Mapping[str, Any]) -> str:
    """Return the result of a curation in one line; its numbers add up to what was read."""
    read, kept = sum(facts["documents_read"].values()), sum(facts["documents_kept"].values())
    exact = facts["removed"].get(EXACT, 0)
    parts = [f"{kept} of {read} documents kept"]
    if ruled := facts["dropped_by_rule"]:
        parts.append(f"{sum(ruled.values())} dropped by rules ({_counts(ruled)}; --rules none keeps them)")
    parts.append(f"{exact} exact copies and {sum(facts['removed'].values()) - exact} near duplicates removed")
    if facts["quarantined"]:
        parts.append(f"{facts['quarantined']} lines or files put aside")
    if skipped := facts["skipped_files"]:
        parts.append(f"{sum(skipped.values())} files not read ({_counts(skipped)})")
    if truth := facts.get("truth"):
        parts.append(f"near-duplicate pairs: precision {truth['precision']:.3f}, recall {truth['recall']:.3f}")
    return "; ".join(parts)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items(), key=lambda item: -item[1]))
