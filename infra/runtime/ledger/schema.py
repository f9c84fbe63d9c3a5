"""Tables of the runtime queue's ledger.

The module uses SQL only, no circuits and no arrays, so that it loads fast.
"""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()
meta = sa.Table(
    "meta",
    METADATA,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.String(64), nullable=False),
)
circuits = sa.Table(
    "circuits",
    METADATA,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("qpy", sa.LargeBinary, nullable=False),
)
calls = sa.Table(
    "calls",
    METADATA,
    sa.Column("key", sa.String(32), primary_key=True),
    *(sa.Column(name, sa.String(200), nullable=False) for name in ("run", "stage", "subtask", "problem", "arm")),
    sa.Column("repetition", sa.Integer, nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("primitive", sa.String(16), nullable=False),
    sa.Column("backend", sa.String(100), nullable=False),
    sa.Column("calibration", sa.String(100), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("content", sa.String(64), nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("executions", sa.BigInteger, nullable=False),
    sa.Column("projection", sa.String(100), nullable=False),
    sa.Column("options", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, default=1),
    sa.Column("reused_from", sa.String(32)),
    sa.Column("error", sa.Text),
    sa.Column("cancel_requested", sa.Float),
    sa.Column("permanent", sa.Boolean, nullable=False, server_default=sa.false()),  # the call failed permanently
    sa.Column("outline", sa.Text),  # how its results are assembled
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("updated", sa.Float, nullable=False),
    sa.Index("calls_waiting", "backend", "state", "created"),
    sa.Index("calls_content", "content", "state"),
    sa.Index("calls_run", "run", "created"),
)
parts = sa.Table(
    "parts",
    METADATA,
    sa.Column("call", sa.String(32), sa.ForeignKey("calls.key"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True),
    sa.Column("start", sa.Integer, nullable=False),
    sa.Column("circuit", sa.String(64), nullable=False),
    sa.Column("request", sa.LargeBinary, nullable=False),
    sa.Column("circuits", sa.Integer, nullable=False),
    sa.Column("shots", sa.BigInteger, nullable=False),
    sa.Column("batch", sa.String(32), index=True),
    sa.Column("slot", sa.Integer),
    sa.Column("result", sa.LargeBinary),
    sa.Column("usage", sa.Text),
    sa.Column("facts", sa.Text),
    sa.Column("estimate_s", sa.Float, nullable=False, server_default="0"),
    sa.Column("overhead_s", sa.Float, nullable=False, server_default="0"),
)
batches = sa.Table(
    "batches",
    METADATA,
    sa.Column("tag", sa.String(32), primary_key=True),
    sa.Column("lane", sa.String(120), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("job_id", sa.String(100)),
    sa.Column("parts", sa.Integer, nullable=False),
    sa.Column("executions", sa.BigInteger, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("estimate_s", sa.Float),
    sa.Column("max_qpu_s", sa.Float),
    sa.Column("billed_s", sa.Float),
    sa.Column("flagged", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("duplicate_of", sa.String(32)),
    sa.Column("sent", sa.Float),  # when the submission was sent
    sa.Column("refusal", sa.Text),  # response to the submission, if it had no job id
    sa.Column("looked", sa.Float),  # last listing of the jobs under its tag, after it was sent
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),  # number of leaders that crashed on its result
    sa.Column("note", sa.Text),  # why its bill differs from that of the service
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("updated", sa.Float, nullable=False),
    sa.Index("batches_open", "lane", "state"),
    sa.Index("batches_unbilled", "lane", "billed_s"),
    sa.Index("batches_job", "lane", "job_id"),
    sa.Index("batches_sent", "lane", "sent"),
)
limits = sa.Table(
    "limits",
    METADATA,
    sa.Column("scope", sa.String(8), primary_key=True),
    sa.Column("unit", sa.String(8), primary_key=True),
    sa.Column("value", sa.Float, nullable=False),
)
charges = sa.Table(  # reservation or bill of a batch, one row for each stage of each run in it
    "charges",
    METADATA,
    sa.Column("tag", sa.String(32), primary_key=True),
    sa.Column("run", sa.String(200), primary_key=True),
    sa.Column("stage", sa.String(200), primary_key=True),
    sa.Column("day", sa.String(10), nullable=False),
    sa.Column("share", sa.Float, nullable=False),
    sa.Column("reserved_s", sa.Float, nullable=False),
    sa.Column("billed_s", sa.Float, nullable=False),
    sa.Column("usd_per_s", sa.Float, nullable=False),
    sa.Index("charges_day", "day"),
    sa.Index("charges_run", "run", "stage"),
)
leases = sa.Table(
    "leases",
    METADATA,
    sa.Column("lane", sa.String(120), primary_key=True),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("holder", sa.String(64)),
    sa.Column("host", sa.String(300)),
    sa.Column("pid", sa.Integer),
    sa.Column("started", sa.String(32)),
    sa.Column("expires", sa.Float, nullable=False),
)
projections = sa.Table(
    "projections",
    METADATA,
    sa.Column("circuit", sa.String(64), primary_key=True),
    sa.Column("device", sa.String(160), primary_key=True),
    sa.Column("two_qubit_gates", sa.Integer, nullable=False),
    sa.Column("two_qubit_depth", sa.Integer, nullable=False),
    sa.Column("duration_s", sa.Float, nullable=False),
    sa.Column("error", sa.Text),
)
