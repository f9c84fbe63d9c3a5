"""Hardware through the vendor's unmodified client, against the double of its platform."""

import json
import os
import time

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.transpiler import generate_preset_pass_manager
from urllib3.exceptions import NewConnectionError

from infra.errors import BackendFailed, BadAnswer, BadInput, BudgetExceeded, NoAnswer, SubmissionUnclear, TurnedAway
from infra.runtime.backends.contract import JobState, Task
from infra.runtime.backends.ibm import device as ibm_module
from infra.runtime.backends.ibm.device import IBMDevice
from infra.runtime.backends.ibm.options import OPTIONS, check_options
from infra.runtime.backends.registry import open_backend
from infra.runtime.circuits.payload import circuit_digest
from infra.runtime.queue import Runtime, Scope
from infra.settings import Settings

TOKEN = "double-api-key-0123456789-0123456789-0123456"  # noqa: S105
TAG = "a batch"


@pytest.fixture(scope="module")
def opened():
    """The device, opened once; each test gets it without a memory of jobs."""
    return []


@pytest.fixture
def device(ibm, opened):
    if not opened:
        opened.append(open_backend("ibm:lagos"))
    return opened[0]


def turn():
    """One qubit turned by a parameter, a second one that copies it."""
    circuit = QuantumCircuit(2)
    circuit.ry(2 * Parameter("a"), 0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


def task(circuit=None, sets=((0.0,), (np.pi / 2,)), shots=50, **more):
    circuit = turn() if circuit is None else circuit
    values = np.asarray(sets, np.float64).reshape(len(sets), circuit.num_parameters)
    return Task("sampler", circuit, circuit_digest(circuit), values, shots, 1, **more)


def finish(device, job_id):
    """Wait for a job and return its results by place, asking again where that is right."""
    for _ in range(500):
        try:
            if device.status(job_id) not in (JobState.QUEUED, JobState.RUNNING):
                return dict(device.results(job_id))
        except NoAnswer:
            continue
        time.sleep(0.005)
    raise AssertionError("the job does not end")


def end(device, job_id):
    while (state := device.status(job_id).state) in (JobState.QUEUED, JobState.RUNNING):
        time.sleep(0.005)
    return state


def ones(outcome):
    """Bits of the first and second qubit in each shot."""
    return np.unpackbits(outcome.arrays["meas"], axis=-1)[..., -2:].mean(axis=1).tolist()


def test_a_job_runs_under_its_tag_and_its_bill_is_shared(device, ibm):
    job_id = device.submit(TAG, [task(), task(sets=[[np.pi / 2]])], max_qpu_s=9.0)
    found = finish(device, job_id)
    assert ones(found[0]) == [[0, 0], [1, 1]]
    assert ones(found[1]) == [[1, 1]]
    (job,) = ibm.jobs
    assert job["tags"] == [TAG]
    assert job["max_s"] == 9
    assert device.find(TAG) == (job_id,)
    assert device.billed(job_id) == job["billed_s"] == pytest.approx(1.7 * (2 + 150 * 350e-6))
    assert (found[0].share, found[1].share) == pytest.approx((2 / 3, 1 / 3))
    assert {each.origin for each in found.values()} == {(TAG, circuit_digest(turn()))}
    assert found[0].facts["job"] == job_id
    assert len(found[0].facts["qubits"]) == 2


def test_a_leader_that_never_saw_the_batch_reads_its_job(device, ibm):
    constant = QuantumCircuit(2)
    constant.x(0)
    constant.measure_all()
    large = QuantumCircuit(9)
    large.measure_all()
    job_id = device.submit(TAG, [task(), task(large, [()]), task(constant, [(), (), ()], 7)])
    found = finish(IBMDevice("ibm_lagos"), job_id)
    assert ones(found[0]) == [[0, 0], [1, 1]]
    assert isinstance(found[1], BadInput), "one caller's circuit does not fail the others"
    assert "9 qubits, ibm:ibm_lagos has 7" in str(found[1])
    assert found[2].arrays["meas"].shape == (3, 7, 1)
    assert ones(found[2]) == [[0, 1]] * 3


ANSWERS = {  # fault of a submission: what follows if no job is listed, jobs made
    "401": ("fail", 0),
    "403": ("fail", 0),
    "400": ("refuse", 0),
    "404": ("refuse", 0),
    "408": ("resend", 0),
    "429": ("wait", 0),
    "500": ("resend", 0),
    "503": ("resend", 0),
    "401-after": ("fail", 1),
    "408-after": ("resend", 1),
    "500-after": ("resend", 1),
    "drop": ("resend", 0),
    "drop-after": ("resend", 1),
    "truncate": ("resend", 1),
}


@pytest.mark.parametrize("fault", ANSWERS)
def test_after_the_first_byte_any_error_leaves_it_open_whether_there_is_a_job(device, ibm, fault):
    verdict, jobs = ANSWERS[fault]
    left = []
    ibm.change(faults=[{"route": "submit", "kind": fault, "times": 9}])
    with pytest.raises(SubmissionUnclear) as unclear:
        device.submit(TAG, [task()], leaving=lambda: left.append(ibm.asked("submit")))
    assert unclear.value.verdict == verdict
    assert left == [0], "the intent is recorded when all else is asked, before the first byte leaves"
    assert ibm.asked("submit") == 1, "the client does not post again by itself"
    assert len(ibm.jobs) == len(device.find(TAG)) == jobs


@pytest.mark.parametrize("fault", ["twice", "slow"])
def test_a_submission_that_is_answered_is_followed(device, ibm, fault):
    ibm.change(faults=[{"route": "submit", "kind": fault, "seconds": 0.05}])
    assert ones(finish(device, device.submit(TAG, [task()]))[0]) == [[0, 0], [1, 1]]
    assert len(device.find(TAG)) == (2 if fault == "twice" else 1)


def test_the_limit_of_pending_jobs_makes_a_call_wait(device, ibm):
    ibm.change(pending_limit=0)
    with pytest.raises(SubmissionUnclear, match="3458") as unclear:
        device.submit(TAG, [task()])
    assert unclear.value.verdict == "wait"


@pytest.mark.parametrize(
    ("route", "fault", "error"),
    [
        ("usage", "400", BackendFailed),
        ("usage", "403", BackendFailed),
        ("usage", "503", TurnedAway),
        ("device", "400", BackendFailed),
        ("device", "500", TurnedAway),
        ("device", "drop", TurnedAway),
    ],
)
def test_a_failure_before_anything_was_sent_is_known_for_one(device, ibm, route, fault, error):
    ibm.change(faults=[{"route": route, "kind": fault, "times": 9}])
    with pytest.raises(error, match="nothing"):
        device.submit(TAG, [task()], leaving=lambda: pytest.fail("nothing leaves"))
    assert ibm.asked("submit") == 0


def test_a_device_in_maintenance_is_sent_nothing(device, ibm):
    ibm.change(maintenance=True)
    with pytest.raises(TurnedAway, match="maintenance"):
        device.submit(TAG, [task()])
    assert ibm.asked("submit") == 0


def test_an_address_that_refuses_the_connection_was_sent_nothing(device, monkeypatch):
    def refused(*_, **__):
        raise NewConnectionError(None, "refused")

    def unreachable():
        monkeypatch.setattr("urllib3.connection.HTTPConnection.connect", refused)
        device._platform._client._session.close()

    with pytest.raises(TurnedAway, match="nothing was sent"):
        device.submit(TAG, [task()], leaving=unreachable)


QUESTIONS = {
    "job": lambda device, job_id: device.status(job_id),
    "results": lambda device, job_id: dict(device.results(job_id)),
    "metrics": lambda device, job_id: device.billed(job_id),
    "jobs": lambda device, job_id: device.find(TAG),
    "cancel": lambda device, job_id: device.cancel(job_id),
}


@pytest.mark.parametrize("fault", ["drop", "500", "400", "401"])
def test_a_question_without_an_answer_may_be_asked_again(device, ibm, fault):
    over = device.submit(TAG, [task()])
    end(device, over)
    ibm.change(queued_polls=1000)
    waiting = device.submit("another batch", [task()])
    for route, question in QUESTIONS.items():
        job_id = over if route in ("results", "metrics") else waiting
        ibm.change(faults=[{"route": route, "kind": fault, "times": 6}])
        with pytest.raises(NoAnswer):
            question(device, job_id)
        ibm.change(faults=[])
        question(device, job_id)
    assert ibm.asked("submit") == 2
    assert device.status(waiting).state is JobState.CANCELLED


def test_a_job_that_is_not_there_is_lost(device, ibm, monkeypatch):
    assert device.status("d0000").state is JobState.LOST
    assert device.billed("d0000") is None
    device.cancel("d0000")
    assert device.find("nothing") == ()
    job_id = device.submit(TAG, [task()])
    ibm.change(faults=[{"route": "job", "kind": "404"}])
    assert device.status(job_id).state is JobState.LOST


@pytest.mark.parametrize("kind", ["truncate", "page", "empty"])
def test_a_result_that_cannot_be_read_is_asked_for_again(device, ibm, kind):
    job_id = device.submit(TAG, [task()])
    end(device, job_id)
    ibm.change(faults=[{"route": "results", "kind": kind, "times": 5}])
    for _ in range(5):
        with pytest.raises(NoAnswer, match="cannot be read"):
            dict(device.results(job_id))
    assert ones(dict(device.results(job_id))[0]) == [[0, 0], [1, 1]]


def billed(seconds):
    return {"usage": {"status": "completed", "qpu_charge_time_seconds": seconds}}


# An answer of the service that makes no sense: route, what replaces it, the question.
SENSELESS = {
    "bill of text": ("metrics", billed("3.5"), "billed"),
    "bill below zero": ("metrics", billed(-30.0), "billed"),
    "bill not a number": (
        "metrics",
        {"usage": {"status": "completed", "qpu_charge_time_seconds": float("nan")}},
        "billed",
    ),
    "bill of a list": ("metrics", {"usage": [1, 2]}, "billed"),
    "bill of nothing": ("metrics", [], "billed"),
    "state missing": ("job", {"id": "x"}, "status"),
    "state unknown": ("job", {"id": "JOB", "state": {"status": "Dreaming"}}, "status"),
    "state of another job": ("job", {"id": "another", "state": {"status": "Completed"}}, "status"),
    "list of text": ("jobs", {"jobs": ["job"], "count": 1}, "find"),
    "list missing": ("jobs", {}, "find"),
    "result without data": ("results", {"schema_version": "v2.0"}, "results"),
    "result of a list": ("results", [1], "results"),
}


@pytest.mark.parametrize("case", SENSELESS)
def test_an_answer_that_makes_no_sense_is_an_error_of_that_question(device, ibm, case):
    route, answer, question = SENSELESS[case]
    job_id = device.submit(TAG, [task()])
    end(device, job_id)
    text = json.dumps(answer).replace("JOB", job_id)
    ibm.change(faults=[{"route": route, "kind": "answer", "body": text}])
    with pytest.raises(BadAnswer):
        list(getattr(device, question)(TAG if question == "find" else job_id) or ())


@pytest.mark.parametrize("usage", [None, {}, {"status": "pending"}, {"status": "completed"}])
def test_a_bill_that_is_missing_is_not_known_yet(device, ibm, usage):
    job_id = device.submit(TAG, [task()])
    end(device, job_id)
    ibm.change(faults=[{"route": "metrics", "kind": "answer", "body": json.dumps({"usage": usage})}])
    assert device.billed(job_id) is None


def test_the_reason_of_the_service_is_reported(device, ibm):
    ibm.change(faults=[{"route": "create", "kind": "failed"}])
    job_id = device.submit(TAG, [task()])
    assert end(device, job_id) is JobState.FAILED
    found = device.status(job_id)
    assert found.reason == "Internal error of the device (code 9999)"
    assert (found.permanent, found.tags) == (False, (TAG,))
    long = device.submit(TAG, [task()], max_qpu_s=1.0)
    assert end(device, long) is JobState.FAILED
    assert (device.status(long).reason, device.status(long).permanent) == ("Ran too long (code 1305)", True)


@pytest.mark.parametrize("route", ["backends", "search"])
def test_a_missing_right_says_what_it_means(ibm, monkeypatch, route):
    ibm.change(faults=[{"route": route, "kind": "403", "times": 99}])
    if route == "search":
        monkeypatch.delenv("QISKIT_IBM_INSTANCE")
    with pytest.raises(BadInput, match="no right to this") as refused:
        open_backend("ibm:lagos")
    assert "has no device" not in str(refused.value)


def test_a_line_that_is_down_is_no_reason_to_give_up_a_paid_result(device, ibm):
    job_id = device.submit(TAG, [task()])
    end(device, job_id)
    ibm.change(faults=[{"route": "results", "kind": "drop", "times": 99}])
    for _ in range(5):
        with pytest.raises(NoAnswer):
            dict(device.results(job_id))
    ibm.change(faults=[])
    assert ones(dict(device.results(job_id))[0]) == [[0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("fate", "state", "share"), [("failed", JobState.FAILED, 1.0), ("cancelled", JobState.CANCELLED, 0.5)]
)
def test_what_became_of_a_job_and_what_it_cost(device, ibm, fate, state, share):
    ibm.change(faults=[{"route": "create", "kind": fate}])
    job_id = device.submit(TAG, [task()])
    assert end(device, job_id) is state
    assert device.billed(job_id) == pytest.approx(share * 1.7 * (2 + 100 * 350e-6))


def test_a_job_that_runs_too_long_is_stopped_by_the_service(device, ibm):
    job_id = device.submit(TAG, [task()], max_qpu_s=2.0)
    assert end(device, job_id) is JobState.FAILED
    assert device.billed(job_id) == 2.0


def test_cancelling_reaches_the_job(device, ibm):
    ibm.change(queued_polls=1000)
    job_id = device.submit(TAG, [task()])
    assert device.status(job_id).state is JobState.QUEUED
    device.cancel(job_id)
    assert device.status(job_id).state is JobState.CANCELLED
    assert device.billed(job_id) == 0.0
    device.cancel(job_id)  # over: nothing happens


def test_a_stuck_job_keeps_running_until_the_device_is_freed(device, ibm):
    ibm.change(faults=[{"route": "create", "kind": "stuck"}])
    job_id = device.submit(TAG, [task()])
    assert {device.status(job_id).state for _ in range(5)} == {JobState.RUNNING}
    ibm.free()
    assert end(device, job_id) is JobState.DONE


def test_a_bill_may_come_later_than_the_results(device, ibm):
    ibm.change(bill_late=2)
    job_id = device.submit(TAG, [task()])
    end(device, job_id)
    assert device.billed(job_id) is None
    (found,) = dict(device.results(job_id)).values()
    assert found.share == 1.0
    bills = [device.billed(job_id) for _ in range(3)]  # it is there after two more questions at most
    assert bills[-1] == pytest.approx(1.7 * (2 + 100 * 350e-6))


def test_jobs_under_a_tag_are_found_on_every_page_oldest_first(device, ibm):
    ibm.change(page=1, queued_polls=1000)
    made = [device.submit(TAG, [task()]) for _ in range(3)]
    device.submit("another batch", [task()])
    assert device.find(TAG) == tuple(made)


def test_a_forked_child_makes_connections_of_its_own(device, ibm):
    session = device._platform._client._session
    usual = session.get_adapter(ibm.url)._usual
    assert device.find(TAG) == ()
    assert len(usual.poolmanager.pools) == 1
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if len(usual.poolmanager.pools) == 0 and device.find(TAG) == () else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert device.find(TAG) == ()
    session.close()
    assert len(usual.poolmanager.pools) == 0


def test_a_job_may_be_listed_late(device, ibm):
    ibm.change(listing_s=0.5, queued_polls=1000)
    job_id = device.submit(TAG, [task()])
    assert device.find(TAG) == ()
    assert device.status(job_id).state is JobState.QUEUED
    time.sleep(0.5)
    assert device.find(TAG) == (job_id,)
    assert device.listing_delay_s > 0.5


@pytest.mark.parametrize("skew_s", [-90_000, 90_000])
def test_the_platforms_clock_may_be_off_by_a_day(ibm, skew_s):
    ibm.reset(skew_s=skew_s)
    device = open_backend("ibm:lagos")
    assert ones(finish(device, device.submit(TAG, [task()]))[0]) == [[0, 0], [1, 1]]


def test_options_have_names_and_values(device):
    given = {"dynamical_decoupling": "xy4", "gate_twirling": True, "optimization_level": "3"}
    assert device.effective(given) == {"optimization_level": 3, "dynamical_decoupling": "XY4", "gate_twirling": True}
    with pytest.raises(BadInput, match=r"no option dd on hardware; there are optimization_level, .*dry_run"):
        device.effective({"dd": True})
    for name, bad in {"optimization_level": 4, "dynamical_decoupling": "CPMG", "gate_twirling": 2}.items():
        with pytest.raises(BadInput, match=f"option {name} is"):
            check_options({name: bad})
    assert set(check_options(dict.fromkeys(OPTIONS, 1) | {"dynamical_decoupling": "XX"} | FLAGS)) == set(OPTIONS)


FLAGS = {
    name: True
    for name in OPTIONS
    if name.endswith(("twirling", "zne_mitigation", "pec_mitigation", "measure_mitigation")) or name == "dry_run"
}


def test_options_of_the_settings_hold_where_a_call_names_none(ibm):
    device = IBMDevice("ibm_lagos", Settings(ibm_options={"dynamical_decoupling": "XX", "rep_delay": 1e-4}))
    assert device.effective({"dynamical_decoupling": "XY4"}) == {"rep_delay": 1e-4, "dynamical_decoupling": "XY4"}
    with pytest.raises(BadInput, match="no option"):
        IBMDevice("ibm_lagos", Settings(ibm_options={"magic": True}))


@pytest.mark.parametrize(
    "options",
    [
        {"dynamical_decoupling": "XY4"},
        {"gate_twirling": True, "measure_twirling": True, "num_randomizations": 4},
        {"optimization_level": 1, "measure_mitigation": True},
    ],
)
def test_suppressed_errors_change_the_job_and_not_the_answer(device, ibm, options):
    chosen = device.effective(options)
    found = finish(device, device.submit(TAG, [task(options=chosen, shots=50)]))
    assert ones(found[0]) == [[0, 0], [1, 1]]
    assert found[0].arrays["meas"].shape == (2, 50, 1), "twirling rounds up; the caller gets what it asked for"
    told = {name: value for name, value in chosen.items() if name != "measure_mitigation"}
    assert found[0].facts["options"] == told, "what corrects expectation values does nothing to samples"
    if "gate_twirling" in options:
        assert ibm.jobs[0]["executions"] == 2 * 4 * 13


def test_a_circuit_that_branches_does_not_stop_the_others(device):
    branching = QuantumCircuit(2, 2)
    branching.measure(0, 0)
    with branching.if_test((0, 1)):
        branching.x(1)
    chosen = device.effective({"dynamical_decoupling": "XX"})
    job_id = device.submit(TAG, [task(branching, [()], options=chosen), task(options=chosen)])
    found = finish(device, job_id)
    assert "does not go with circuits that branch" in str(found[0])
    assert ones(found[1]) == [[0, 0], [1, 1]]
    with pytest.raises(BadInput, match="branch"):
        device.submit(TAG, [task(branching, [()], options=chosen)])


@pytest.mark.parametrize("options", [{}, {"measure_mitigation": True}, {"zne_mitigation": True}])
@pytest.mark.filterwarnings("ignore:No positive, finite standard errors")
def test_expectation_values_with_and_without_mitigation(device, ibm, options):
    circuit = turn().remove_final_measurements(inplace=False)
    pairs = [(0, {"ZZ": 1.0, "IZ": 0.5}), (0, {"XX": 1.0}), (1, {"ZZ": 1.0, "IZ": 0.5}), (1, {"XX": 1.0})]
    sets = np.array([[0.0], [np.pi / 4]])
    chosen = device.effective(options)
    made = Task("estimator", circuit, "turn", sets, 800, 1, precision=0.05, pairs=pairs, options=chosen)
    found = finish(device, device.submit(TAG, [made]))[0]
    assert found.arrays["evs"] == pytest.approx([1.5, 0.0, 1.0, 1.0], abs=0.3)
    assert found.arrays["stds"].shape == (4,)
    assert found.facts["options"] == chosen


def test_values_that_each_set_asks_for_itself(device):
    circuit = turn().remove_final_measurements(inplace=False)
    pairs = [(0, {"ZI": 1.0}), (1, {"ZI": 1.0}), (1, {"XX": 1.0})]
    sets = np.array([[0.0], [np.pi / 2]])
    made = Task("estimator", circuit, "turn", sets, 400, 1, precision=0.05, pairs=pairs)
    found = finish(device, device.submit(TAG, [made]))[0]
    assert found.arrays["evs"] == pytest.approx([1.0, -1.0, 0.0], abs=0.2)


def test_jobs_of_a_batch_share_it(ibm):
    device = IBMDevice("ibm_lagos", Settings(ibm_mode="batch"))
    for _ in range(2):
        finish(device, device.submit(TAG, [task()]))
    assert [job["session_id"] for job in ibm.jobs] == ["session0"] * 2
    assert ibm.facts["sessions"]["session0"]["mode"] == "batch"


def test_the_services_own_estimate_is_asked_for_and_heeded(device, ibm):
    ibm.change(base_s=8.0)
    chosen = device.effective({"dry_run": True})
    found = finish(device, device.submit(TAG, [task(options=chosen)], max_qpu_s=20))
    assert found[0].facts["service_estimate_s"] == pytest.approx(8 + 100 * 350e-6)
    assert [job["backend"] for job in ibm.jobs] == ["mock_lagos", "ibm_lagos"]
    assert len(device.find(TAG)) == 1
    with pytest.raises(BudgetExceeded, match=r"itself estimates 8\.0 QPU seconds for the job, 7 are reserved"):
        device.submit(TAG, [task(options=chosen)], max_qpu_s=7)
    assert [job["backend"] for job in ibm.jobs] == ["mock_lagos", "ibm_lagos", "mock_lagos"]
    ibm.change(faults=[{"route": "configuration", "kind": "404", "times": 9}])
    fresh = IBMDevice.__new__(IBMDevice)
    fresh.__dict__ |= device.__dict__
    finish(fresh, fresh.submit("no rehearsal", [task(options=chosen)]))


def test_the_calibration_is_asked_for_again_after_an_hour(ibm, monkeypatch):
    device = open_backend("ibm:lagos")
    assert isinstance(device, IBMDevice)
    before = device.calibration
    assert before == "ibm_lagos-1.6.6 2026-11-22T06:00:00+00:00"
    ibm.change(calibration="2026-11-23T06:00:00Z")
    compiled = device._isa
    assert device.calibration == before
    monkeypatch.setattr(ibm_module, "REFRESH_S", -1.0)
    assert device.calibration == "ibm_lagos-1.6.6 2026-11-23T06:00:00+00:00"
    assert device._isa is not compiled, "what was compiled for the older calibration is forgotten"
    ibm.change(faults=[{"route": "*", "kind": "500", "times": 99}])
    assert device.calibration.endswith("2026-11-23T06:00:00+00:00"), "the older one does where nobody answers"


def test_the_estimate_is_the_vendors_formula_on_the_compiled_circuit(device):
    circuit = turn()
    isa = device._isa.get(circuit, "turn", {})
    assert 1e-7 < isa.duration_s < 1e-5
    found = device.estimate_qpu_s(circuit, "turn", 10_000)
    assert found == pytest.approx(2 + 10_000 * (250e-6 + isa.duration_s))
    assert device.estimate_qpu_s(circuit, "turn", 12_000_000) == pytest.approx(3 * 2 + 12e6 * (250e-6 + isa.duration_s))
    assert device.estimate_qpu_s(circuit, "turn", 0) == 0


def test_binding_is_twenty_times_cheaper_than_compiling(device):
    circuit = QuantumCircuit(6)
    angle = Parameter("a")
    for layer in range(3):
        for qubit in range(5):
            circuit.rzz(angle * (layer + 1), qubit, qubit + 1)
        circuit.rx(0.3 * angle, range(6))
    circuit.measure_all()
    start = time.thread_time()
    generate_preset_pass_manager(2, target=device._isa.target, seed_transpiler=11).run(circuit)
    compile_s = time.thread_time() - start
    isa = device._isa.get(circuit, "ladder", {})
    start = time.thread_time()
    for _ in range(20):
        assert device._isa.get(circuit, "ladder", {}) is isa
        isa.template.binds(np.ones((1, 1)))
    assert (time.thread_time() - start) / 20 < compile_s / 20


def test_what_cannot_run_is_refused_before_it_is_written_down(ibm, tmp_path):
    runtime = Runtime(tmp_path / "ledger.db", "ibm:lagos")
    scope = Scope("r", "s", "t", "p", "a")
    large = QuantumCircuit(8)
    large.measure_all()
    with pytest.raises(BadInput, match="8 qubits, ibm:ibm_lagos has 7"):
        runtime.sampler(scope).run([large])
    with pytest.raises(BadInput, match="set a precision above 0"):
        runtime.estimator(scope).run([(QuantumCircuit(1), "Z")])
    assert ibm.jobs == []


def test_no_token_in_what_is_said_or_kept(ibm, tmp_path, caplog, capfd):
    caplog.set_level("DEBUG")
    ibm.change(faults=[{"route": "submit", "kind": "echo", "times": 9}, {"route": "job", "kind": "echo", "times": 9}])
    runtime = Runtime(tmp_path / "ledger.db", "ibm:lagos")
    device = open_backend("ibm:lagos")
    with pytest.raises(BackendFailed):
        runtime.sampler(Scope("r", "s", "t", "p", "a")).run([turn().assign_parameters([0.1])], shots=5).result()
    with pytest.raises(SubmissionUnclear) as refused:
        device.submit(TAG, [task()])
    with pytest.raises(NoAnswer) as unanswered:
        device.status("d0")
    said = f"{refused.value} {unanswered.value} {device!r} {vars(device)} {caplog.text} {capfd.readouterr()}"
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert "***" in str(refused.value)
    for secret in (TOKEN, "eyJ"):
        assert secret not in said
        assert secret.encode() not in kept


def test_a_token_that_is_refused(ibm, monkeypatch, caplog, capfd):
    wrong = "a-wrong-secret-of-forty-four-characters-0000"
    monkeypatch.setenv("QISKIT_IBM_TOKEN", wrong)
    with pytest.raises(BadInput, match="ketcycle doctor --backend ibm:ibm_lagos") as refused:
        open_backend("ibm:lagos")
    assert wrong not in f"{refused.value} {caplog.text} {capfd.readouterr()}"
    monkeypatch.delenv("QISKIT_IBM_TOKEN")
    with pytest.raises(BadInput, match="export QISKIT_IBM_TOKEN"):
        open_backend("ibm:lagos")


def test_a_device_that_the_instance_does_not_have(ibm):
    with pytest.raises(BadInput, match="has no device ibm_atlantis; `ketcycle doctor --backend ibm:ibm_atlantis`"):
        open_backend("ibm:atlantis")
