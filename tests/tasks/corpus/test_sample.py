import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.corpus.sample import sample_path

FOLDER = sample_path("base").parent
SOURCE = Path(__file__).parents[4] / "shared/data"


def test_the_sample_is_small_licensed_and_described() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 10 * 2**20
    assert {path.name for path in (FOLDER / "licences").iterdir()} == {
        "PSF-2.0.txt",
        "CC-BY-4.0.txt",
        "NOTICE",
        "AUTHORS.rst",
    }
    for name in ("base", "second", "truth"):
        rows = f"{pq.read_metadata(sample_path(name)).num_rows:,}"
        assert rows in (FOLDER / "README.md").read_text(), f"README.md should say that {name} has {rows} rows"


@pytest.mark.parametrize("domain", ["base", "second"])
def test_the_documents_have_ids_and_text(domain: str) -> None:
    table = pq.read_table(sample_path(domain))
    assert table.schema.names == ["doc_id", "domain", "source", "label", "text"]
    assert len(set(table["doc_id"].to_pylist())) == table.num_rows >= 1500
    assert set(table["domain"].to_pylist()) == {domain}
    assert all(text.strip() for text in table["text"].to_pylist())


def test_the_passages_of_the_documentation_have_the_promised_size() -> None:
    sizes = [len(text) for text in pq.read_table(sample_path("base"))["text"].to_pylist()]
    assert max(sizes) <= 6_000
    assert sum(size >= 900 for size in sizes) / len(sizes) > 0.9


def test_the_truth_names_texts_that_are_there() -> None:
    names = set(pq.read_table(sample_path("second"))["doc_id"].to_pylist())
    truth = pq.read_table(sample_path("truth"))
    assert set(truth["a"].to_pylist()) | set(truth["b"].to_pylist()) <= names
    assert min(truth["jaccard"].to_pylist()) >= 0.5


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.parquet is missing"):
        sample_path("nothing")


@pytest.mark.skipif(not SOURCE.exists(), reason="the prepared source sets are not beside this checkout")
def test_the_script_cuts_the_same_sample_again(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "deployments.sample.build", str(SOURCE), str(tmp_path)],
        check=True,
        cwd=Path(__file__).parents[3],
    )
    for name in ("base", "second", "truth"):
        assert pq.read_table(tmp_path / f"{name}.parquet").equals(pq.read_table(sample_path(name)))
    for licence in (tmp_path / "licences").iterdir():
        assert licence.read_bytes() == (FOLDER / "licences" / licence.name).read_bytes()
