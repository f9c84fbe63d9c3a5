from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from mlflow.webhooks.delivery import _generate_hmac_signature
from mlflow.webhooks.types import ModelVersionCreatedPayload

from infra.claims import Claims
from infra.errors import BadInput, EventNotSent
from infra.events import ModelRegistered, ModelValidated, Payload, event_id
from infra.installation.webhooks import LARGEST, Receiver, create_app

TOKEN, SECRET = "a token of the test", "a secret of the test"
EXAMPLE: Any = ModelVersionCreatedPayload
CREATED = {"entity": "model_version", "action": "created", "data": dict(EXAMPLE.example())}


class Outbox:
    def __init__(self) -> None:
        self.sent: list[tuple[str, Payload, UUID]] = []
        self.works = True

    def __call__(self, name: str, payload: Payload, number: UUID) -> None:
        if not self.works:
            raise EventNotSent("the server is away")
        self.sent.append((name, payload, number))


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def client(tmp_path: Path, outbox: Outbox) -> TestClient:
    claims = Claims(str(tmp_path / "ledger.db"), "webhooks")
    return TestClient(create_app(Receiver(claims, token=TOKEN, secret=SECRET, forward=outbox)))


def signed(body: dict[str, Any], number: str = "", at: int | None = None, secret: str = SECRET) -> dict[str, Any]:
    """Sign as MLflow itself does."""
    text, number, stamp = json.dumps(body), number or str(uuid4()), str(at or int(time.time()))
    signature = _generate_hmac_signature(secret, number, stamp, text)
    headers = {"X-MLflow-Delivery-Id": number, "X-MLflow-Timestamp": stamp, "X-MLflow-Signature": signature}
    return {"content": text, "headers": headers}


def plain(payload: dict[str, Any], number: str = "n1", token: str = TOKEN, **changed: Any) -> dict[str, Any]:
    body = {"id": number, "sent": datetime.now(UTC).isoformat(), "event": "corpus.arrived", "payload": payload}
    return {"json": body | changed, "headers": {"Authorization": f"Bearer {token}"}}


def test_a_new_version_in_the_registry_becomes_an_event_once(client: TestClient, outbox: Outbox) -> None:
    request = signed(CREATED)
    assert client.post("/mlflow", **request).status_code == 202
    again = client.post("/mlflow", **request)
    assert (again.status_code, again.json()["said"]) == (200, "this delivery was taken before")
    ((name, payload, number),) = outbox.sent
    assert payload == ModelRegistered(name="example_model", version=1, source="models:/123")
    assert number == event_id(name, payload, "1")  # the same event as when the stage itself tells it


def test_a_tag_of_a_person_validates(client: TestClient, outbox: Outbox) -> None:
    data = {"name": "demo", "version": "3", "key": "validation_status", "value": "approved"}
    body = {"entity": "model_version_tag", "action": "set", "data": data}
    assert client.post("/mlflow", **signed(body)).status_code == 202
    assert outbox.sent[0][1] == ModelValidated(name="demo", version=3, by="tag validation_status=approved")
    other = signed(body | {"data": data | {"value": "rejected"}})
    assert client.post("/mlflow", **other).json() == {"said": "nothing here follows from this event"}
    assert len(outbox.sent) == 1


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        (lambda: signed(CREATED, secret=SECRET[::-1]), 401, "X-MLflow-Signature"),
        (lambda: signed(CREATED) | {"content": json.dumps(CREATED | {"action": "deleted"})}, 401, "X-MLflow-Signature"),
        (lambda: signed(CREATED, at=int(time.time()) - 1000), 400, "old, 300 s are allowed"),
        (lambda: signed(CREATED, at=int(time.time()) + 1000), 400, "in the future"),
        (lambda: signed({"entity": "model_version", "action": "created"}), 400, "no registry event of MLflow: Key"),
        (lambda: signed(CREATED | {"data": {"name": "../x", "version": "0"}}), 400, "name: String should match"),
        (lambda: {"content": "{}"}, 401, "X-MLflow-Signature"),
    ],
)  # fmt: skip
def test_what_mlflow_did_not_sign_or_say_is_refused_in_words(
    client: TestClient, outbox: Outbox, request_: Callable[[], dict[str, Any]], status: int, said: str
) -> None:
    answer = client.post("/mlflow", **request_())
    assert answer.status_code == status
    assert said in answer.json()["error"]
    assert not outbox.sent


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        (lambda: plain({"files": ["a"]}, token=TOKEN[::-1]), 401, "bearer token"),
        (lambda: {"json": {}}, 401, "bearer token"),
        (lambda: plain({"files": []}), 400, "files: Tuple should have at least 1 item"),
        (lambda: plain({"files": ["a"], "run": "rm -rf /"}), 400, "run: Extra inputs are not permitted"),
        (lambda: plain({"files": ["a"]}, event="corpus.exploded"), 400, "unknown event 'corpus.exploded'; known are"),
        (lambda: plain({"files": ["a"]}, sent="2020-01-01T00:00:00Z"), 400, "old, 300 s are allowed"),
        (lambda: plain({"files": ["a"]}, sent="yesterday"), 400, "sent: Input should be a valid datetime"),
        (lambda: plain({"files": ["a"]}) | {"json": [1]}, 400, "expected JSON with id, sent, event and payload"),
    ],
)
def test_plain_json_is_refused_in_words(
    client: TestClient, outbox: Outbox, request_: Callable[[], dict[str, Any]], status: int, said: str
) -> None:
    answer = client.post("/events", **request_())
    assert answer.status_code == status
    assert said in answer.json()["error"]
    assert not outbox.sent


def test_a_delivery_that_prefect_did_not_take_may_come_again(client: TestClient, outbox: Outbox) -> None:
    outbox.works = False
    assert client.post("/events", **plain({"files": ["a"]})).status_code == 503
    outbox.works = True
    assert client.post("/events", **plain({"files": ["a"]})).status_code == 202
    assert client.post("/events", **plain({"files": ["a"]})).status_code == 200
    assert [name for name, _, _ in outbox.sent] == ["corpus.arrived"]


def test_deliveries_are_known_after_a_restart(tmp_path: Path, outbox: Outbox) -> None:
    for status in (202, 200):
        claims = Claims(str(tmp_path / "ledger.db"), "webhooks")
        receiver = Receiver(claims, token=TOKEN, forward=outbox)
        assert TestClient(create_app(receiver)).post("/events", **plain({"files": ["a"]})).status_code == status
    assert len(outbox.sent) == 1


def test_a_large_body_is_not_read_to_its_end(client: TestClient) -> None:
    answer = client.post("/events", **(plain({}) | {"content": b"x" * (LARGEST + 1), "json": None}))
    assert answer.status_code == 413


def test_no_secret_no_receiver(tmp_path: Path) -> None:
    claims = Claims(str(tmp_path / "ledger.db"), "webhooks")
    with pytest.raises(BadInput, match="KETCYCLE_WEBHOOK_TOKEN"):
        Receiver(claims)
    with pytest.raises(BadInput, match="at least 16"):
        Receiver(claims, token=TOKEN[:5])
    only_token = TestClient(create_app(Receiver(claims, token=TOKEN)))
    assert only_token.post("/mlflow", **signed(CREATED, secret="")).status_code == 401
