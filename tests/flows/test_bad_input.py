"""What a user may get wrong: each case ends in one sentence that says what to do, before anything is started."""

from __future__ import annotations

import gzip
import json
import os
import re
import resource
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from qiskit import QuantumCircuit
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.run import _take_name
from flows.lifecycle.config import RunConfig
from infra.errors import BadInput, LakeError
from infra.lake import Lake
from infra.runtime.backends.noisy import NoisySimulator
from tasks.curation import stage as curation
from tasks.preprocessing import stage as preprocessing
from tasks.stage import Context, State, decisions
from tasks.steps import posed

ROW = json.dumps({"text": "2 + 2 = 4"}) + "\n"
PREFERENCE = json.dumps({"prompt": "2 + 2", "chosen": "4", "rejected": "5"}) + "\n"
PROSE = "the parser reads a stream of tokens and with each of them it decides what to do that the grammar allows"


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working folder without settings; what the commands set for their process is put back."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("KETCYCLE_", "QISKIT_IBM_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("QISKIT_IBM_ACCOUNT_FILE", str(tmp_path / "none.json"))
    monkeypatch.chdir(tmp_path)
    yield
    os.environ.clear()
    os.environ.update(before)


@dataclass(frozen=True)
class Said:
    code: int
    text: str


def ketcycle(*arguments: str, home: Path | str = "home") -> Said:
    done = CliRunner().invoke(app, [*arguments, "--home", str(home)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Said(done.exit_code, " ".join(done.output.split()))


def written(name: str, content: str | bytes) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def empty(name: str) -> str:
    Path(name).mkdir()
    return name


def truncated(name: str) -> str:
    pq.write_table(pa.table({"text": [PROSE] * 100}), name)
    return written(name, Path(name).read_bytes()[:-50])


def model(**config: object) -> str:
    written("model/config.json", json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", **config}))
    return "model"


def a_run() -> str:
    _take_name(Path("home").absolute(), RunConfig(run_id="first"))
    return "first"


def no_network(backend: str) -> tuple[str, ...]:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    os.environ.update(QISKIT_IBM_TOKEN="x" * 44, HTTPS_PROXY=nobody, https_proxy=nobody)
    return ("run", "--backend", backend)


def settings_file(text: str) -> tuple[str, ...]:
    written("ketcycle.toml", text)
    return ("run",)


CASES: dict[str, tuple[Callable[[], tuple[str, ...]], str]] = {
    "empty path": (lambda: ("run", "--corpus", ""), r"--corpus has an empty value; give it a value or leave it out"),
    "empty path of a model": (lambda: ("run", "--model", ""), r"--model has an empty value"),
    "empty name of a run to continue": (lambda: ("run", "--resume", ""), r"--resume has an empty value"),
    "no stages": (lambda: ("run", "--stages", ""), r"--stages has an empty value"),
    "missing path": (lambda: ("run", "--corpus", "nix"), r"no such file or folder: \S*nix; give --corpus"),
    "empty folder": (lambda: ("run", "--corpus", empty("e")), r"no text in \S*e; give --corpus .*\.jsonl"),
    "empty file": (lambda: ("run", "--second", written("e.txt", "")), r"no text in \S*e\.txt; give --second"),
    "other kinds of files": (
        lambda: ("run", "--corpus", str(Path(written("d/x.exe", "x")).parent)),
        r"no text in \S*d, 1 files of other kinds",
    ),
    "truncated file": (
        lambda: ("run", "--corpus", truncated("t.parquet")),
        r"no document can be read from \S*t\.parquet: unreadable \(1\); t\.parquet: ArrowInvalid",
    ),
    "wrong column": (
        lambda: ("run", "--corpus", written("w.jsonl", '{"document": "x"}\n')),
        r"no text column \(1\); w\.jsonl:1: fields: document; name one with --text-column",
    ),
    "column that is not there": (
        lambda: ("run", "--corpus", written("w.jsonl", '{"text": "x"}\n'), "--text-column", "body"),
        r"fields: text; name one with --text-column",
    ),
    "not UTF-8": (
        lambda: ("run", "--evaluate", written("l.txt", b"caf\xe9 ole")),
        r"l\.txt is not UTF-8 .* byte 3\); give a text file",
    ),
    "rows that are not there": (
        lambda: ("run", "--set", "finetuning.data=nix.jsonl"),
        r"nix\.jsonl cannot be read \(No such file or directory\); give a file of JSON lines",
    ),
    "malformed row": (
        lambda: ("run", "--set", f"finetuning.data={written('r.jsonl', 3 * ROW + '{}')}"),
        r"r\.jsonl line 4: a row has messages, or prompt and completion, or text; this one has nothing",
    ),
    "too few rows": (
        lambda: ("run", "--set", f"finetuning.data={written('r.jsonl', 2 * ROW)}"),
        r"r\.jsonl has 2 row\(s\); at least 3 are needed",
    ),
    "no template": (
        lambda: ("run", "--set", f"finetuning.data={written('r.jsonl', 3 * ROW)}", "--set", "finetuning.template=nix"),
        r"the chat template nix cannot be read",
    ),
    "malformed preference": (
        lambda: ("run", "--set", f"finetuning.preferences={written('p.jsonl', ROW)}"),
        r"p\.jsonl line 1: a preference has prompt, chosen and rejected; this one lacks prompt, chosen, rejected",
    ),
    "a single preference": (
        lambda: ("run", "--set", f"finetuning.preferences={written('p.jsonl', PREFERENCE)}"),
        r"p\.jsonl has 1 row\(s\); at least 2 are needed",
    ),
    "unknown backend": (lambda: ("run", "--backend", "mars"), r"use aer, noisy:.*, ibm:<device>, or provider:"),
    "unknown fake device": (lambda: ("run", "--backend", "noisy:mars"), r"no fake device 'mars'.*fake_torino"),
    "hardware without an account": (lambda: ("run", "--backend", "ibm:torino"), r"needs an account.*save_account"),
    "hardware without a network": (lambda: no_network("ibm:torino"), r"does not answer; is there a network\?"),
    "missing model": (lambda: ("run", "--model", "nix"), r"no model folder nix; give one saved by transformers"),
    "model without weights": (lambda: ("run", "--model", model()), r"weights|safetensors"),
    "model with its own code": (
        lambda: ("run", "--model", model(auto_map={"AutoModel": "modeling.Mine"})),
        r"code of its own .* never run here; give a model whose architecture transformers",
    ),
    "unknown profile": (lambda: ("run", "--profile", "huge"), r"no profile 'huge'; there are .*smoke"),
    "unknown stage": (lambda: ("run", "--stages", "cooking"), r"unknown stages cooking; the stages are curation"),
    "threshold of nothing": (
        lambda: ("stage", "curation", "--corpus", written("c.txt", PROSE), "--threshold", "0"),
        r"threshold: Input should be greater than 0",
    ),
    "threshold that is no number": (
        lambda: ("stage", "curation", "--corpus", written("c.txt", PROSE), "--threshold", "nan"),
        r"threshold: Input should be less than or equal to 1",
    ),
    "unknown method": (lambda: ("run", "--method", "magic"), r"method: Input should be 'classical', 'quantum'"),
    "unsafe run name": (lambda: ("run", "--run", "../up"), r"a run is named with a-z, 0-9 and dashes"),
    "second run of a name": (lambda: ("run", "--run", a_run()), r"a run first already; .*--resume first"),
    "run that is not there": (lambda: ("run", "--resume", "nix"), r"no run nix in .*; runs there: none"),
    "report that is not there": (lambda: ("report", "nix"), r"nix"),
    "call that is not there": (lambda: ("queue", "show", "nix"), r"no ledger at .* first quantum call"),
    "unknown country": (
        lambda: settings_file('country = "XYZ"\n'),
        r"no carbon intensity for country 'XYZ'; use an ISO 3166 code",
    ),
    "no carbon series": (lambda: settings_file('carbon_series = "nix.csv"\n'), r"nix\.csv, which is no file"),
    "unknown setting": (lambda: settings_file("wokers = 2\n"), r"ketcycle\.toml.*wokers.*the settings are .*workers"),
    "setting of a wrong type": (lambda: settings_file('workers = "many"\n'), r"ketcycle\.toml.*workers.*integer"),
    "settings that are no TOML": (lambda: settings_file("workers = = 2\n"), r"cannot be read .*ketcycle init"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_says_what_to_do(name: str) -> None:
    prepare, sentence = CASES[name]
    said = ketcycle(*prepare())
    assert said.code == 2, said.text
    assert "Traceback" not in said.text
    assert re.search(sentence, said.text), said.text
    assert not Path("home/prefect").exists(), "services were started before the input was looked at"
    assert not any(run.name != "first" for run in Path("home/runs").glob("*")), "a run that never began was left"


@pytest.mark.parametrize("home", ["file", "file/below"])
def test_a_state_folder_that_cannot_be_made(home: str) -> None:
    Path("file").write_text("")
    said = ketcycle("run", home=home)
    assert said.code == 2
    assert "cannot be made" in said.text
    assert "choose another with --home" in said.text


def test_a_state_folder_without_write_permission(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    if os.geteuid() == 0:  # who is root may write anywhere but on a file system that is read-only
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", locked], capture_output=True
        ).returncode:
            pytest.skip("root without the right to mount: nothing here is not writable")
    else:
        locked.chmod(0o500)
    try:
        said = ketcycle("run", home=locked)
        assert said.code in (1, 2)
        assert "Traceback" not in said.text
        assert "choose another" in said.text
        assert str(locked) in said.text.replace(" ", "")
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", locked], check=True)


def test_a_port_in_use_is_named_when_it_was_asked_for() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = ketcycle("up", "--mlflow-port", str(port))
    assert said.code == 2
    assert f"mlflow_port {port} is in use by another program; stop it, or choose another" in said.text
    assert not Path("home/services.json").exists()


def test_of_runs_that_take_a_name_at_the_same_moment_one_gets_it(tmp_path: Path) -> None:
    start, won, refused = threading.Barrier(8), list[int](), list[str]()

    def take(seed: int) -> None:
        config = RunConfig(run_id="same", seed=seed)
        start.wait()
        try:
            _take_name(tmp_path, config)
            won.append(seed)
        except BadInput as error:
            refused.append(str(error))

    threads = [threading.Thread(target=take, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(refused) == 7
    folder = tmp_path / "runs" / "same"
    assert [path.name for path in folder.iterdir()] == ["run.json"], "no drafts are left"
    assert json.loads((folder / "run.json").read_text())["config"]["seed"] == won[0]


def test_a_circuit_larger_than_the_device() -> None:
    from infra.runtime.backends.snapshots import fake_device

    circuit = QuantumCircuit(8, 8)
    circuit.measure(range(8), range(8))
    device = NoisySimulator("fake_manila", fake_device("fake_manila"))
    with pytest.raises(BadInput, match=r"has 8 qubits, .*manila.* has 5; use a larger device or aer"):
        device.region(circuit.num_qubits)


def prose(seed: int, words: int = 120) -> str:
    rng = np.random.default_rng(seed)
    known = PROSE.split()
    return " ".join(f"{rng.choice(known)}" if rng.random() < 0.5 else f"word{rng.integers(4000)}" for _ in range(words))


def curated(home: Path, corpus: Path, **others: Any) -> State:
    second = (str(corpus.parent / "second"),)
    options = {"corpus": (str(corpus),), "second": second, "semantic_clusters": {"documents": 0}, **others}
    given = Context("run", "curation", home, 0, options)
    state = curation.prepare(given, State())
    assert all(posed(subtask, given, state) is None for subtask in decisions("curation"))
    return curation.publish(given, state)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        written(str(tmp_path / "second" / f"{i}.txt"), prose(100 + i))
    (tmp_path / "corpus").mkdir()
    return tmp_path / "corpus"


def test_damaged_files_among_good_ones_are_named_and_the_rest_is_done(folder: Path, tmp_path: Path) -> None:
    for i in range(4):
        written(str(folder / f"good{i}.txt"), prose(i))
    truncated(str(folder / "cut.parquet"))
    written(str(folder / "zeros.txt"), b"\0" * 100)
    written(
        str(folder / "mixed.jsonl"), json.dumps({"text": prose(50)}) + "\nno json\n" + json.dumps({"other": 1}) + "\n"
    )
    written(str(folder / "latin.txt"), prose(51).encode() + " caf\xe9".encode("latin-1"))
    (folder / "pipe.txt").symlink_to(folder / "nowhere")
    state = curated(tmp_path / "home", folder)
    assert state.facts["documents_kept"]["base"] == 6
    assert state.facts["undecodable_characters"] == 0  # Latin-1 is detected
    aside = Lake(tmp_path / "home" / "lake").read(state.refs["curation/quarantined"]).to_pylist()
    assert {(row["path"], row["reason"]) for row in aside} == {
        ("cut.parquet", "unreadable"),
        ("zeros.txt", "binary"),
        ("pipe.txt", "broken link"),
        ("mixed.jsonl:2", "not JSON"),
        ("mixed.jsonl:3", "no text column"),
    }


def test_hostile_files_cost_no_memory_and_the_rest_is_done(folder: Path, tmp_path: Path) -> None:
    """A line without end, a small file that unpacks to a large one, and binary data that calls itself text."""
    for i in range(4):
        written(str(folder / f"good{i}.txt"), prose(i))
    with (folder / "line.jsonl").open("wb") as target:
        target.write(json.dumps({"text": prose(20)}).encode() + b"\n")
        target.truncate(2**29)  # a sparse file: half a gigabyte without a line break
    with gzip.open(folder / "bomb.jsonl.gz", "wb", compresslevel=9) as target:
        for _ in range(128):
            target.write(b"0" * 2**20)
    assert (folder / "bomb.jsonl.gz").stat().st_size < 2**19
    (folder / "picture.txt").write_bytes(bytes(range(256)) * 50)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    state = curated(tmp_path / "home", folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024, "KiB"
    aside = Lake(tmp_path / "home" / "lake").read(state.refs["curation/quarantined"]).to_pylist()
    assert {(Path(row["path"]).name, row["reason"]) for row in aside} == {
        ("line.jsonl:2", "record too long"),
        ("bomb.jsonl.gz:1", "record too long"),
        ("picture.txt", "binary"),
    }
    assert state.facts["documents_kept"]["base"] == 5


def test_ids_that_repeat_and_schemas_that_differ(folder: Path, tmp_path: Path) -> None:
    for part in range(2):
        rows = [{"id": f"d{i}", "text": prose(10 * part + i)} for i in range(3)]
        written(str(folder / f"{part}.jsonl"), "".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.table({"text": [prose(40), prose(41)], "n": [1, 2]}), folder / "a.parquet")
    pq.write_table(pa.table({"body": pa.array([prose(42)], pa.large_string())}), folder / "b.parquet")
    pq.write_table(pa.table({"text": [42]}), folder / "c.parquet")
    state = curated(tmp_path / "home", folder)
    lake = Lake(tmp_path / "home" / "lake")
    ids = [row["doc_id"] for row in lake.read(state.refs["curation/kept"]).to_pylist() if row["domain"] == "base"]
    assert len(ids) == len(set(ids)) == 9
    (aside,) = lake.read(state.refs["curation/quarantined"]).to_pylist()
    assert (Path(aside["path"]).name, aside["reason"]) == ("c.parquet", "no text column")


@pytest.mark.parametrize(("threshold", "kept"), [(0.01, 1), (0.5, 2), (1.0, 3)])
@pytest.mark.parametrize("permutations", [128, 101])
def test_the_ends_of_the_threshold_are_sane(
    folder: Path, tmp_path: Path, threshold: float, kept: int, permutations: int
) -> None:
    words = prose(3).split()
    half = len(words) // 2
    for name, text in {
        "a": words,
        "b": [*words[:-3], "and", "so", "on"],  # nearly the same
        "c": [*words[:half], *prose(4).split()[:half]],  # half of it
    }.items():
        written(str(folder / f"{name}.txt"), " ".join(text))
    state = curated(tmp_path / "home", folder, threshold=threshold, permutations=permutations)
    assert state.facts["documents_kept"]["base"] == kept


@pytest.mark.parametrize("copies", [1, 20], ids=["one document", "only duplicates"])
def test_too_little_text_is_said_with_what_there_is(folder: Path, tmp_path: Path, copies: int) -> None:
    for i in range(copies):
        written(str(folder / f"{i:02d}.txt"), prose(0))
    state = curated(tmp_path / "home", folder)
    assert state.facts["documents_kept"]["base"] == 1
    given = Context("run", "preprocessing", tmp_path / "home", 0, {"vocab_size": 300}, state.refs)
    with pytest.raises(BadInput, match=r"domain base has \d documents.*give more text"):
        preprocessing.prepare(given, State())


def test_nothing_left_after_the_filters(folder: Path, tmp_path: Path) -> None:
    written(str(folder / "short.txt"), "too short")
    with pytest.raises(BadInput, match=r"no usable document in the base domain .*: 1 read.*--rules none"):
        curated(tmp_path / "home", folder)
    assert not Lake(tmp_path / "home" / "lake").versions("curation/candidates")


def test_on_a_full_disk_nothing_half_written_is_seen(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(40):
        written(str(folder / f"{i}.txt"), " ".join(PROSE.split() + [rng.bytes(4).hex() for _ in range(3000)]))
    home = tmp_path / "small"
    home.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", home], capture_output=True).returncode:
        pytest.skip("a small file system needs the right to mount")
    try:
        with pytest.raises((LakeError, OSError), match=r"No space left|no space left"):
            curated(home, folder)
        lake = Lake(home / "lake")
        assert not list(lake.root.rglob("*.json")), "no manifest of what is not whole"
        assert not [path for path in lake.root.rglob("*") if path.is_file()], "what was written before is taken away"
    finally:
        subprocess.run(["umount", home], check=True)
