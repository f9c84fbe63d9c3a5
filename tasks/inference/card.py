"""The model card of a registered model, and the lifecycle ledger it quotes: what making the model took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.energy.derive import energy_draws
from infra.energy.model import Band, Coefficients
from infra.energy.usage import Usage
from infra.evidence import EvidenceRow
from infra.shared import open_evidence
from tasks.contract import STAGES
from tasks.inference.options import Options
from tasks.model.examples import DATA
from tasks.stage import Context

TOKENS = 1000
CLASSICAL, QUANTUM, OVERHEAD = "classical", "quantum", "overhead"
OPENING = {CLASSICAL: "own work and classical arms", QUANTUM: "quantum arms, simulated", OVERHEAD: "orchestration"}


@dataclass(frozen=True)
class Entry:
    """Joules of one part of the lifecycle, modelled or measured as its rows say.

    Attributes:
        stage: the stage, or empty for orchestration.
        part: `classical`, `quantum` (CPU that simulated circuits, never a QPU's energy) or `overhead`.
        joules: p5, p50, p95; narrow boundary.
        cpu_s: CPU seconds.
    """

    stage: str
    part: str
    joules: tuple[float, float, float]
    cpu_s: float


def lifecycle(rows: Sequence[EvidenceRow], coefficients: Coefficients) -> list[Entry]:
    """Return what the stages of a run took, in lifecycle order, split into classical, quantum and overhead."""
    found = []
    for stage in (*STAGES, ""):
        for part in OPENING:
            chosen = [row for row in rows if row.stage == stage and _part(row) == part]
            if chosen:
                band = Band.of(energy_draws(chosen, coefficients))
                cpu_s = sum(row.total.cpu_s for row in chosen)
                found.append(Entry(stage, part, (band.p5, band.p50, band.p95), cpu_s))
    return found


def decisions(rows: Sequence[EvidenceRow], coefficients: Coefficients) -> list[dict[str, Any]]:
    """Return what each decision took, in the order of the rows: the chosen arm, and the arms that ran beside it.

    Returns:
        For each decision `stage`, `decision`, `chosen`, and median joules: `chosen_j`, `classical_j` and `quantum_j`
        (CPU that simulated circuits) of the arms beside.
    """

    def joules(part: Sequence[EvidenceRow]) -> float:
        return Band.of(energy_draws(part, coefficients)).p50 if part else 0.0

    found = []
    for key in dict.fromkeys((row.stage, row.subtask) for row in rows if row.subtask):
        own = [row for row in rows if (row.stage, row.subtask) == key]
        beside = [row for row in own if not row.chosen]
        found.append(
            {
                "stage": key[0],
                "decision": key[1],
                "chosen": next((row.arm for row in own if row.chosen), ""),
                "chosen_j": joules([row for row in own if row.chosen]),
                "classical_j": joules([row for row in beside if _part(row) == CLASSICAL]),
                "quantum_j": joules([row for row in beside if _part(row) == QUANTUM]),
            }
        )
    return found


def reading_joules(facts: Mapping[str, Any], tokens: int, coefficients: Coefficients) -> dict[str, Any]:
    """Return the joules of reading a number of tokens before and after pruning, modelled; empty if not measured."""
    speeds = facts.get("prefill_tokens_per_cpu_s")
    if not speeds or not tokens:
        return {}
    watts = coefficients.cpu_energy_j(Usage(cpu_s=1.0), source="modelled").p50
    return {"tokens": tokens, **{name: watts * tokens / speed for name, speed in speeds.items()}}


def chosen_only(rows: Sequence[EvidenceRow]) -> list[EvidenceRow]:
    """Return the rows without which the model would not exist: own work of the stages and the chosen arms."""
    return [row for row in rows if not row.subtask or row.chosen]


def read_rows(context: Context) -> list[EvidenceRow]:
    """Return the evidence of the run so far."""
    return list(open_evidence(context.home).read(run_id=context.run_id))


def base_model(context: Context) -> str:
    """Return the name of the pretrained model that the run was given, or an empty text."""
    ref = context.inputs.get("architecture/model")
    return str(context.lake.meta(ref).get("pretrained", "")) if ref else ""


def data_sources(context: Context, *, recovered: bool) -> list[dict[str, Any]]:
    """Return what the run trained the model on: texts that were kept, by domain and source, and files of rows.

    Args:
        context: of the stage `inference`.
        recovered: whether the pruned model was trained on the domains of the stage.
    """
    ref = context.inputs.get("finetuning/model")
    tuned = context.lake.meta(ref) if ref else {}
    files = list(tuned.get("learned", ()))
    if "curation/kept" not in context.inputs:
        return files
    query = (
        "select domain, source, count(*) as documents, sum(n_bytes) as bytes from kept group by all "
        "order by domain, bytes desc, source limit 50"
    )
    rows: list[dict[str, Any]] = context.lake.sql(query, kept=context.inputs["curation/kept"]).to_pylist()
    if base_model(context):
        domains = {tuned.get("domain"), *(context.parsed(Options).domains if recovered else ())}
        rows = [row for row in rows if row["domain"] in domains]
    return [*({**row, "bytes": int(row["bytes"])} for row in rows), *files]


def model_card(name: str, facts: Mapping[str, Any], about: Mapping[str, Any], licences: Mapping[str, str]) -> str:
    """Return the card in Markdown with the metadata block that model hubs read.

    Args:
        name: of the registered model.
        facts: of the stage `inference`.
        about: `run`, `inputs` (name to lake reference), `base` (the pretrained model, or empty), `sources` and
            `energy` (see `describe_energy`).
        licences: licence of each domain, and of the base model as `model`, as the user states them.
    """
    stated = sorted(set(licences.values()))
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation",
             f"license: {stated[0].lower() if len(stated) == 1 else 'other'}", "tags: [ketcycle]", "---", "",
             f"# {name}", "", f"Made by run `{about['run']}`.", "", "## Lineage", ""]  # fmt: skip
    lines += [f"* `{key}`: `{ref}`" for key, ref in sorted(about["inputs"].items())]
    lines += ["", "## Text it learned from", ""]
    if base := about["base"]:
        lines += [f"The base model `{base}` was given; what it had learned from is not known. In this run:", ""]
    lines += _table(("domain", "source", "documents", "bytes"), about["sources"]) or ["None."]
    domains = (["model"] if base else []) + sorted({row["domain"] for row in about["sources"]})
    named = "; ".join(f"{d}: {licences.get(d, 'not stated')}" for d in domains) or "not stated"
    advice = "" if domains and all(d in licences for d in domains) else "; state them with `inference.licences`"
    lines += ["", f"Licences: {named}{advice}."]
    scores = facts.get("bits_per_byte", {})
    answers = f"; {DATA}: the answers of held-out rows" if any(DATA in row for row in scores.values()) else ""
    lines += ["", "## Quality", "", f"Bits per byte of held-out text, lower is better{answers}.", ""]
    rows = [{"model": key.replace("_", " "), **{d: f"{v:.4f}" for d, v in row.items()}} for key, row in scores.items()]
    lines += _table(("model", *dict.fromkeys(d for row in scores.values() for d in row)), rows)
    lines += ["", "## Energy", "", about["energy"]["sentence"], ""]
    lines += _table(("stage", "part", "J", "5 %", "95 %", "CPU s"), about["energy"]["rows"])
    forms = facts.get("forms")
    if forms:
        lines += ["", "## Number formats on the machine that made it", "", f"Chosen: {forms['chosen']}.", ""]
        lines += _table(("format", "bits per byte", "tokens read / CPU s", "tokens written / CPU s",
                         "J / 1,000 read", "J / 1,000 written", "MB"), form_rows(forms))  # fmt: skip
    if exports := facts.get("exports"):
        ref = about["inputs"]["inference/exports"]
        written = ", ".join(f"{name} ({count / 1e6:.1f} MB)" for name, count in exports.items())
        lines += ["", "## For other runtimes", "", f"`{ref}`: {written}."]
    return "\n".join(lines) + "\n"


def form_rows(forms: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the table of number formats with printed names; joules as median [5 %, 95 %]."""

    def joules(band: Sequence[float]) -> str:
        return f"{band[1]:.3g} [{band[0]:.2g}, {band[2]:.2g}]"

    return [
        {
            "format": name,
            "bits per byte": f"{row['bits_per_byte']:.4f}",
            "tokens read / CPU s": f"{row['read_tokens_per_cpu_s']:.0f}",
            "tokens written / CPU s": f"{row['written_tokens_per_cpu_s']:.0f}",
            "J / 1,000 read": joules(row["j_per_1000_read"]),
            "J / 1,000 written": joules(row["j_per_1000_written"]),
            "MB": f"{row['bytes'] / 1e6:.1f}",
        }
        for name, row in forms["rows"].items()
    ]


def describe_energy(rows: Sequence[EvidenceRow], coefficients: Coefficients, base: str = "") -> dict[str, Any]:
    """Return the ledger as rows and a sentence with the totals; `base` names the pretrained model that was given."""
    entries = lifecycle(rows, coefficients)
    made, all_of = (Band.of(energy_draws(part, coefficients)) for part in (chosen_only(rows), rows))
    sources = " and ".join(sorted({row.energy_source for row in rows})) or "none"
    sentence = (
        f"Making the model took {made.p50:.0f} J [{made.p5:.0f}, {made.p95:.0f}] ({sources}; CPU and memory); with the "
        f"arms that ran beside for comparison and the orchestration recorded so far, {all_of.p50:.0f} J "
        f"[{all_of.p5:.0f}, {all_of.p95:.0f}]."
    )
    if base:
        sentence += f" The training of {base} is not counted."
    printed = [
        {
            "stage": entry.stage or "run",
            "part": OPENING[entry.part],
            "J": f"{entry.joules[1]:.1f}",
            "5 %": f"{entry.joules[0]:.1f}",
            "95 %": f"{entry.joules[2]:.1f}",
            "CPU s": f"{entry.cpu_s:.2f}",
        }
        for entry in entries
    ]
    return {
        "sentence": sentence,
        "rows": printed,
        "entries": [[e.stage or "run", e.part, list(e.joules), e.cpu_s] for e in entries],
        "made_j": [made.p5, made.p50, made.p95],
        "decisions": decisions(rows, coefficients),
    }


def _part(row: EvidenceRow) -> str:
    if row.arm == "orchestration":
        return OVERHEAD
    return QUANTUM if row.kind == "quantum" else CLASSICAL


def _table(header: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [" | ".join(header), " | ".join("---" for _ in header)]
    lines += [" | ".join(str(row.get(name, "")) for name in header) for row in rows]
    return [f"| {line} |" for line in lines]
