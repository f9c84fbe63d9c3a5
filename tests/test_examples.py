"""Every example runs, in this process, and prints what its README says that it shows."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SHOWN = {
    "deduplicate": r"kept: b, c\n(.*\n)*dropped d: exact_duplicates 1.0000 like c\n(.*\n)*dropped a: near_duplicates",
    "compare_tables": r"a week like it: no drift; .*\n  kernel-pool: no drift.*\na slower week: drift; .*latency_s",
    "send_circuits": r"'000': \d+, '111': \d+\}\nthe same call: True; .*was made before",
    "read_evidence": r"exact minus greedy, .*: 0\.\d+, 95 % \[.*\]\ngreedy: .* mJ .*\(modelled|measured\)\nexact: ",
    "custom_arm": r"largest-first: quality 0\.\d+, .*\ncoins: quality 0\.\d+, .* 1 circuits\nchance: ",
}


def test_the_readme_lists_every_example() -> None:
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == {f"{name}.py" for name in SHOWN}
    assert set(re.findall(r"^\| `(\w+\.py)`", (EXAMPLES / "README.md").read_text(), re.MULTILINE)) == scripts


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_shows_what_it_says(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [name, str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert re.search(SHOWN[name], shown), shown
