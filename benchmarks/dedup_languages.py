"""Near duplicates and quality rules in many languages: precision, recall, and what the rules drop.

    git clone https://github.com/eric-muller/udhr      # the Universal Declaration of Human Rights in 500 languages
    python -m benchmarks.dedup_languages udhr/data/udhr

Passages of about 500 characters (250 of Chinese, Japanese and Korean) and five edited copies of each: one, three or
five of a hundred characters replaced by others of the same text, the last paragraph left out, or a paragraph of another
passage in front. Pairs found by `deduplicate` at .7 are scored against all pairs whose shingle sets reach .7 exactly;
beside that stands how many of the copies of each edit were found.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.dedup import PAGE, true_pairs
from benchmarks.page import write_part
from tasks.curation.deduplicate import deduplicate

LANGUAGES = {
    "eng": ("English", "en"), "deu_1996": ("German", "de"), "fin": ("Finnish", "fi"), "tur": ("Turkish", "tr"),
    "vie": ("Vietnamese", "vi"), "swh": ("Swahili", "sw"), "rus": ("Russian", "ru"), "ell_monotonic": ("Greek", "el"),
    "arb": ("Arabic", "ar"), "heb": ("Hebrew", "he"), "hin": ("Hindi", "hi"), "kor": ("Korean", "ko"),
    "cmn_hans": ("Chinese", "zh"), "jpn": ("Japanese", "ja"), "tha": ("Thai", "th"), "mya": ("Burmese", "any"),
}  # fmt: skip
PASSAGE, DENSE = 500, 250
EDITS = ("1 %", "3 %", "5 %", "cut", "head")
PARAGRAPH = re.compile(r"<para>([^<]*)</para>")


def passages(path: Path) -> list[list[str]]:
    """Return the passages of a translation, each as its paragraphs."""
    paragraphs = [" ".join(found[1].split()) for found in PARAGRAPH.finditer(path.read_text(encoding="utf-8"))]
    least = DENSE if path.stem.endswith(("kor", "cmn_hans", "jpn")) else PASSAGE
    found: list[list[str]] = [[]]
    for paragraph in filter(None, paragraphs):
        found[-1].append(paragraph)
        if sum(map(len, found[-1])) >= least:
            found.append([])
    return found[:-1]


def edited(paragraphs: list[str], other: str, edit: str, rng: np.random.Generator) -> str:
    """Return an edited copy of a passage."""
    text = " ".join(paragraphs)
    if edit == "cut":
        return " ".join(paragraphs[:-1]) or text[: len(text) * 4 // 5]
    if edit == "head":
        return f"{other} {text}"
    letters = [k for k, character in enumerate(text) if character.isalpha()]
    changed = list(text)
    for k in rng.choice(letters, max(1, int(float(edit.split()[0]) / 100 * len(letters))), replace=False):
        changed[k] = text[int(rng.choice(letters))]
    return "".join(changed)


def row(name: str, path: Path, language: str) -> str:
    """Return the row of a language."""
    rng = np.random.default_rng(0)
    found = passages(path)
    rows = [{"doc_id": f"p{k}", "text": " ".join(paragraphs)} for k, paragraphs in enumerate(found)]
    for k, paragraphs in enumerate(found):
        other = min(found[k - 1], key=len)
        rows += [{"doc_id": f"p{k} {edit}", "text": edited(paragraphs, other, edit, rng)} for edit in EDITS]
    corpus = pa.Table.from_pylist(rows)
    done = deduplicate(corpus)
    columns = done.edges.to_pydict()
    edges = {tuple(sorted(pair)) for pair in zip(columns["i"], columns["j"], strict=True)}
    with TemporaryDirectory() as folder:
        pq.write_table(corpus, Path(folder) / "x.parquet")
        ids, pairs = true_pairs(Path(folder) / "x.parquet", Path(folder))
    truth = {tuple(sorted((ids[a], ids[b]))) for a, b in pairs.tolist()}
    truth -= {pair for pair in truth if corpus_text(corpus, pair[0]) == corpus_text(corpus, pair[1])}
    shares = [sum((f"p{k}", f"p{k} {edit}") in edges for k in range(len(found))) / len(found) for edit in EDITS]
    dropped = len(deduplicate(corpus.slice(0, len(found)), rules="prose", languages=[language]).dropped) / len(found)
    both = len(edges & truth)
    cells = [len(found), len(truth), f"{both / max(1, len(edges)):.3f}", f"{both / max(1, len(truth)):.3f}"]
    return " | ".join(
        ["|", name, *map(str, cells), *(f"{share:.2f}" for share in shares), f"{dropped:.2f}", "|"]
    ).strip(" |")


def corpus_text(corpus: pa.Table, name: str) -> str:
    """Return the text of a document."""
    return str(corpus["text"][corpus["doc_id"].index(name).as_py()].as_py())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("udhr", type=Path)
    parser.add_argument("--write", action="store_true", help="put the table into docs/stages/curation.md")
    arguments = parser.parse_args()
    head = ["language", "passages", "pairs at .7", "precision", "recall", *EDITS, "dropped by `prose`"]
    made = [f"| {' | '.join(head)} |\n|{'---|' * len(head)}"]
    for code, (name, language) in LANGUAGES.items():
        made.append(f"| {row(name, arguments.udhr / f'udhr_{code}.xml', language)} |")
    print("\n".join(made))
    if arguments.write:
        write_part(PAGE, "dedup languages", "\n".join(made))


if __name__ == "__main__":
    main()
