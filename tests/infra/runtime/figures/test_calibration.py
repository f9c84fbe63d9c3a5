import json
import math
from pathlib import Path

import pytest

from infra.runtime.backends.usage import Projection
from infra.runtime.figures.calibration import MIN_JOBS, calibration_table, correction, fit, recorded
from infra.runtime.ledger.ledger import Ledger
from infra.runtime.ledger.schema import batches

RECORDED = Path(__file__).parents[4].parent / "shared/data/qpu_recorded_kangaroo"


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.db", durable=False)


def book(ledger, pairs, lane="ibm:ibm_fez", state="DONE", prefix="job"):
    """Write jobs that are over, oldest first."""
    with ledger.database.write() as connection:
        for number, (estimate_s, billed_s) in enumerate(pairs):
            row = {"tag": f"{prefix}{number}", "lane": lane, "state": state, "fence": 1, "parts": 1, "executions": 1024}
            times = {"created": float(number), "updated": float(number)}
            connection.execute(batches.insert().values(**row, **times, estimate_s=estimate_s, billed_s=billed_s))


def recorded_jobs():
    """(Estimate, bill) of five true jobs: one circuit of about 100 us, 1,024 shots."""
    if not RECORDED.exists():
        pytest.skip(f"the recorded jobs are not at {RECORDED}")
    estimate_s = Projection(0, 100e-6).qpu_s(1024, 1024)
    metrics = [json.loads(path.read_text()) for path in sorted(RECORDED.glob("*_metrics.json"))]
    return [(estimate_s, float(found["usage"]["quantum_seconds"])) for found in metrics]


def test_five_recorded_jobs(ledger):
    jobs = recorded_jobs()
    assert [billed for _, billed in jobs] == [10, 4, 4, 13, 10]
    assert jobs[0][0] == pytest.approx(2.3584)
    book(ledger, jobs)
    found = correction(ledger, "ibm:ibm_fez")
    # by hand: mean log ratio of 10, 4, 4, 13, 10 over 2.3584, Student t with 4 degrees of freedom (2.7764)
    logs = [math.log(billed / 2.3584) for billed in (10, 4, 4, 13, 10)]
    mean = sum(logs) / 5
    half = 2.7764451 * math.sqrt(sum((x - mean) ** 2 for x in logs) / 4 / 5)
    assert found.factor == pytest.approx(20_800**0.2 / 2.3584), "the geometric mean"
    assert (found.low, found.high) == pytest.approx((math.exp(mean - half), math.exp(mean + half)), rel=1e-6)
    assert found.low < 1.7 < found.factor < 5.5 < found.high, "five jobs say little: the interval holds them all"
    assert found.n == 5
    (row,) = calibration_table(ledger)
    assert (row["backend"], row["jobs"], row["billed_s"]) == ("ibm:ibm_fez", 5, 41)
    assert row["factor"] * row["estimated_s"] == pytest.approx(5 * 20_800**0.2)


def test_before_there_are_jobs_the_factor_of_recorded_ones_stands_in(ledger):
    found = correction(ledger, "ibm:ibm_fez")
    assert found == recorded()
    assert (found.factor, found.n) == (3.43, 0)
    assert (found.low, found.high) == pytest.approx((1.70, 5.51))
    assert calibration_table(ledger) == []
    book(ledger, [(2.0, 4.0)] * (MIN_JOBS - 1))
    assert correction(ledger, "ibm:ibm_fez") == recorded()
    assert calibration_table(ledger)[0]["source"] == "recorded jobs"
    book(ledger, [(2.0, 4.0)], prefix="last")
    found = correction(ledger, "ibm:ibm_fez")
    assert (found.factor, found.low, found.high, found.n) == pytest.approx((2.0, 2.0, 2.0, MIN_JOBS))


def test_only_jobs_of_this_backend_that_ended_well_count(ledger):
    book(ledger, [(2.0, 4.0)] * 3)
    book(ledger, [(2.0, 1.0)] * 9, state="FAILED", prefix="failed")
    book(ledger, [(2.0, 100.0)] * 9, lane="ibm:ibm_torino", prefix="other")
    book(ledger, [(2.0, None), (None, None), (0.0, 5.0)], prefix="unknown")
    assert correction(ledger, "ibm:ibm_fez").factor == pytest.approx(2.0)
    assert [row["backend"] for row in calibration_table(ledger)] == ["ibm:ibm_fez", "ibm:ibm_torino"]


def test_the_interval_covers_the_true_factor_as_often_as_it_says():
    import numpy as np

    rng, inside, trials = np.random.default_rng(5), 0, 2000
    for _ in range(trials):
        found = fit([(1.0, 3.0 * math.exp(0.5 * x)) for x in rng.standard_normal(6)])
        inside += found.low <= 3.0 <= found.high
    assert inside / trials == pytest.approx(0.95, abs=0.02)


def test_one_job_makes_no_interval():
    with pytest.raises(ValueError, match="two jobs, there are 1"):
        fit([(1.0, 2.0)])
