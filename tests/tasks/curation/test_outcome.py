"""What curation hands over: witnesses that stay, reasons, the order of the corpus."""

import hashlib

import pyarrow as pa
import pytest

from infra.lake import Lake, Ref
from tasks.curation.index.corpus import CANDIDATES, FILTERED
from tasks.curation.outcome import DECISIONS, as_given, dropped, final_decisions, kept, totals, worth_comparing


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def decisions(lake) -> Ref:
    """`copy` repeats `near`, which goes for `also`, which goes by its meaning for `kept`."""
    rows = [
        ("copy", "near", 1.0, "exact_duplicates"),
        ("twin", "kept", 1.0, "exact_duplicates"),
        ("near", "also", 0.8, "near_duplicates/clique"),
        ("also", "kept", 0.95, "semantic_clusters"),
    ]
    return lake.write("curation/decisions", pa.table(list(zip(*rows, strict=True)), schema=DECISIONS))


@pytest.fixture
def candidates(lake) -> Ref:
    names = ["z", "near", "also", "kept", "a"]
    rows = [
        {"doc_id": n, "domain": "base" if n < "l" else "second", "text": n * 3, "n_bytes": 3 * len(n)} for n in names
    ]
    tables = [pa.Table.from_pylist([{"n_words": 1, "weight": 1.0, **row}], CANDIDATES) for row in rows]
    return lake.write("curation/candidates", tables)


def test_a_copy_of_a_removed_document_gets_its_witness_and_everyone_ends_at_a_kept_one(lake, decisions):
    found = {row.pop("removed"): row for row in final_decisions(lake, decisions).to_pylist()}
    assert found["copy"] == {
        "witness": "also", "jaccard": 0.8, "cosine": None, "subtask": "exact_duplicates", "kept": "kept"
    }  # fmt: skip
    assert (found["near"]["witness"], found["near"]["kept"]) == ("also", "kept")
    assert (found["also"]["jaccard"], found["also"]["cosine"]) == (None, 0.95)
    assert found["twin"]["kept"] == found["twin"]["witness"] == "kept"


def test_what_stays_stays_in_order_and_every_other_document_has_a_reason(lake, decisions, candidates):
    rows = [
        {"doc_id": "bad", "reason": "length", "detail": "2 words", "text": "a b"},
        {"doc_id": "copy", "text": "near near"},
        {"doc_id": "twin", "text": "kept"},
    ]
    filtered = lake.write("curation/filtered", pa.Table.from_pylist(rows, FILTERED))
    final = lake.write("curation/decisions", final_decisions(lake, decisions))
    stays = pa.concat_tables(kept(lake, candidates, final))
    assert stays["doc_id"].to_pylist() == ["z", "kept", "a"]
    gone = pa.concat_tables(dropped(lake, filtered, candidates, final)).to_pylist()
    assert [gone[0][name] for name in ("doc_id", "text", "reason", "detail")] == ["bad", "a b", "length", "2 words"]
    assert {row["doc_id"]: row["detail"] for row in gone}["copy"] == "0.8000 like also"
    assert len(gone) == 5


def test_the_users_columns_keep_their_names_and_ours_cannot_clash():
    rows = {"doc_id": ["7"], "domain": ["base"], "text": ["t"], "given:domain": ["law"], "given:ketcycle_id": ["old"]}
    table = pa.table({**rows, "given:id": pa.array([7], pa.int32())})
    found = as_given(table, "body")
    assert found.to_pylist() == [{"body": "t", "domain": "law", "id": 7, "ketcycle_id": "7", "ketcycle_domain": "base"}]
    assert found.schema.field("id").type == pa.int32()
    assert as_given(table.append_column("given:body", [["mine"]]), "body")["ketcycle_text"].to_pylist() == ["t"]


def test_nothing_removed_is_nothing_lost(lake, candidates):
    none = lake.write("curation/decisions", DECISIONS.empty_table())
    final = lake.write("curation/decisions", final_decisions(lake, none))
    assert pa.concat_tables(kept(lake, candidates, final)).num_rows == 5
    assert totals(lake, candidates) == {
        "base": {"documents": 3, "n_bytes": 3 * 9}, "second": {"documents": 2, "n_bytes": 3 * 5}
    }  # fmt: skip


def test_documents_with_near_duplicates_are_compared_first(lake, candidates, decisions):
    components = lake.write("curation/components", pa.table({"doc_id": ["kept", "near"]}))
    found = worth_comparing(lake, candidates, components, decisions, 2)
    other = min(("z", "a"), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert {row["doc_id"] for row in found} == {"kept", other}
