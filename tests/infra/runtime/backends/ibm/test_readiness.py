import json

import pytest
from qiskit_ibm_runtime.accounts import management

from infra.runtime.backends.ibm.account import find_account, redact
from infra.runtime.backends.ibm.readiness import check
from infra.settings import Settings

WRONG = "a-wrong-secret-of-forty-four-characters-0000"


def told(found):
    return {item.about: item for item in found}


def test_all_is_there(ibm):
    found = check("ibm:torino")
    assert [item.about for item in found] == [
        "client", "options", "account", "identity service", "API", "access token", "instance", "device", "online",
        "QPU seconds",
    ]  # fmt: skip
    assert all(item.ok and not item.advice for item in found)
    assert told(found)["device"].found == "ibm_torino, 133 qubits"
    assert told(found)["instance"].found == "double, plan open"
    assert told(found)["QPU seconds"].found == "600 s left of the plan"
    assert ibm.asked("submit") == 0


@pytest.mark.parametrize(
    ("change", "last", "advice"),
    [
        ({"QISKIT_IBM_TOKEN": None}, "account", "save_account"),
        ({"QISKIT_IBM_TOKEN": WRONG}, "access token", "API key"),
        ({"KETCYCLE_IBM_IDENTITY_URL": "http://127.0.0.1:9"}, "identity service", "KETCYCLE_IBM_IDENTITY_URL"),
        ({"KETCYCLE_IBM_API_URL": "http://127.0.0.1:9/api"}, "API", "KETCYCLE_IBM_API_URL"),
        ({"KETCYCLE_IBM_INSTANCE": "crn:v1:bluemix:public:other::::"}, "access token", "instance"),
        ({"KETCYCLE_IBM_MODE": "session"}, "settings", "ketcycle.toml"),
    ],
)
def test_the_first_thing_that_is_missing_is_named(ibm, monkeypatch, tmp_path, change, last, advice):
    monkeypatch.setattr(management, "_DEFAULT_ACCOUNT_CONFIG_JSON_FILE", str(tmp_path / "account.json"))
    for name, value in change.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    found = check("ibm:torino")
    assert found[-1].about == last
    assert not found[-1].ok
    assert advice in found[-1].advice
    assert WRONG not in str(found)


def test_a_device_that_is_not_there_off_line_or_without_seconds(ibm):
    assert told(check("ibm:atlantis"))["device"].advice == "use one of ibm_guadalupe, ibm_lagos, ibm_torino"
    ibm.change(maintenance=True, limit_s=10)
    found = told(check("ibm:lagos"))
    assert (found["online"].ok, found["online"].found) == (False, "maintenance, 0 jobs waiting")
    assert not found["QPU seconds"].ok


def test_options_that_do_not_exist(ibm):
    found = told(check("ibm:lagos", Settings(ibm_options={"magic": 1})))
    assert "there is no option magic" in found["options"].found


@pytest.mark.parametrize("route", ["backends", "usage", "device", "search", "configuration"])
def test_a_platform_that_fails_is_reported_and_never_raised(ibm, route):
    ibm.change(faults=[{"route": route, "kind": "echo", "times": 99}])
    found = check("ibm:lagos")
    assert not found[-1].ok
    assert "eyJ" not in str(found)


def test_the_vendors_account_file(tmp_path, monkeypatch):
    path = tmp_path / "account.json"
    monkeypatch.setattr(management, "_DEFAULT_ACCOUNT_CONFIG_JSON_FILE", str(path))
    monkeypatch.delenv("QISKIT_IBM_TOKEN", raising=False)
    assert find_account() is None
    account = {"channel": "ibm_quantum_platform", "token": WRONG, "url": "https://cloud.ibm.com"}
    path.write_text(
        json.dumps({"other": account | {"token": "x" * 44}, "mine": account | {"is_default_account": True}})
    )
    found = find_account()
    assert found.source == "the vendor's account file"
    assert found.token == WRONG
    assert WRONG not in repr(found)
    assert redact(f"key {WRONG}, apikey=abc, Bearer x.y.z, http://me:secret@proxy") == (
        "key ***, ***, ***, http://***@proxy"
    )
    path.write_text("{ not json")
    assert told(check("ibm:lagos"))["account"].found.startswith("the vendor's account file cannot be read")
