"""Webhooks from outside become Prefect events: MLflow's, signed, and plain JSON with a bearer token.

A request is checked in this order: size, signature or token, time, schema, repetition. Nothing of it is ever executed,
imported or used as a path: a payload becomes a checked event, or an error message.

MLflow signs `delivery id.timestamp.body` with HMAC-SHA256 and sends it as `X-MLflow-Signature: v1,<base64>`, after the
Standard Webhooks specification (https://www.standardwebhooks.com).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from infra.access import SHORTEST_KEY, Certificate
from infra.claims import Claims
from infra.errors import BadInput, EventNotSent
from infra.events import Payload, checked, event_id, send

log = logging.getLogger("ketcycle.webhooks")

LARGEST = 64 * 1024
TOLERANCE_S = 300.0  # of clocks and of the way here, as the specification advises
VALIDATED = ("approved", "passed")  # values of the tag `validation_status` by which people let a version serve

Send = Callable[[str, Payload, UUID], None]


@dataclass(frozen=True)
class Answer:
    """The answer to a request.

    Attributes:
        status: HTTP status.
        said: the reason.
        event: the event that came of it, if any.
    """

    status: int
    said: str
    event: str | None = None


class Delivery(BaseModel):
    """The body of plain JSON."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=1, max_length=200, description="Names the occurrence; sent again it is the same one.")
    sent: AwareDatetime = Field(description="When it was sent, ISO 8601 with a time zone.")
    event: str = Field(max_length=100, description="Name of the event, e.g. corpus.arrived.")
    payload: dict[str, Any] = Field(description="What the event's schema asks for.")


class Receiver:
    """Turns requests into events, each delivery once.

    Args:
        claims: the idempotency keys of deliveries.
        token: for plain JSON; empty = such requests are refused.
        secret: for MLflow's webhooks; empty = such requests are refused.
        forward: sends an event on.
        clock: seconds since the epoch.

    Raises:
        BadInput: neither is set, or one that is too short to be a secret.
    """

    def __init__(
        self,
        claims: Claims,
        *,
        token: str = "",
        secret: str = "",
        forward: Send = send,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not token and not secret:
            raise BadInput("set KETCYCLE_WEBHOOK_TOKEN (plain JSON) or KETCYCLE_WEBHOOK_SECRET (MLflow), or both")
        for name, value in (("KETCYCLE_WEBHOOK_TOKEN", token), ("KETCYCLE_WEBHOOK_SECRET", secret)):
            if value and len(value) < SHORTEST_KEY:
                raise BadInput(f"{name} has {len(value)} characters, at least {SHORTEST_KEY} are needed")
        self._claims, self._token, self._secret, self._send, self._clock = claims, token, secret, forward, clock

    def plain(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Take plain JSON with a bearer token."""
        given = headers.get("authorization", "").partition("Bearer ")[2]
        if not self._token or not hmac.compare_digest(given.encode(), self._token.encode()):
            return Answer(401, "a valid bearer token is needed (Authorization: Bearer ...)")
        try:
            delivery = Delivery.model_validate_json(body)
        except ValidationError as error:
            return Answer(400, _explain(error))
        if late := self._late(delivery.sent.timestamp()):
            return late
        return self._take(f"json {delivery.id}", delivery.event, delivery.payload, f"delivery {delivery.id}")

    def mlflow(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Take a webhook of MLflow's model registry."""
        number, stamp = headers.get("x-mlflow-delivery-id", ""), headers.get("x-mlflow-timestamp", "")
        signed = hmac.new(self._secret.encode(), f"{number}.{stamp}.".encode() + body, hashlib.sha256).digest()
        expected = f"v1,{base64.b64encode(signed).decode()}"
        given = headers.get("x-mlflow-signature", "")
        if not self._secret or not number or not hmac.compare_digest(given.encode(), expected.encode()):
            return Answer(401, "a valid X-MLflow-Signature is needed: give the webhook the secret of this receiver")
        if not stamp.isdigit():
            return Answer(400, "X-MLflow-Timestamp should be seconds since the epoch")
        if late := self._late(float(stamp)):
            return late
        try:
            found = from_mlflow(json.loads(body))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return Answer(400, f"the body is no registry event of MLflow: {type(error).__name__}: {error}")
        if found is None:
            return Answer(200, "nothing here follows from this event")
        return self._take(f"mlflow {number}", *found)

    def _late(self, sent_s: float) -> Answer | None:
        off = self._clock() - sent_s
        if abs(off) <= TOLERANCE_S:
            return None
        which = "old" if off > 0 else "in the future"
        return Answer(400, f"sent {abs(off):.0f} s {which}, {TOLERANCE_S:.0f} s are allowed; is a clock wrong?")

    def _take(self, delivery: str, name: str, payload: Mapping[str, Any], once: str) -> Answer:
        try:
            known = checked(name, payload)
        except BadInput as error:
            return Answer(400, str(error))
        holder = str(uuid4())
        self._claims.forget(self._clock() - 2 * TOLERANCE_S)  # older ones are refused by their time
        if self._claims.claim(delivery, holder) is not None:
            return Answer(200, "this delivery was taken before", name)
        try:
            self._send(name, known, event_id(name, known, once))
        except EventNotSent as error:
            self._claims.release(delivery, holder)
            log.warning("%s", error)
            return Answer(503, "Prefect does not take events now; send it again later")
        self._claims.finish(delivery, holder)
        log.info("%s: %s", delivery, name)
        return Answer(202, "taken", name)


def from_mlflow(body: Mapping[str, Any]) -> tuple[str, dict[str, Any], str] | None:
    """Return name, payload and idempotency key of the event for a registry event, or None if there is none.

    A new version is `model.registered`; the tag `validation_status` set to `approved` or `passed` is `model.validated`.

    Raises:
        KeyError: a field is missing.
        TypeError: a field has another type.
        ValueError: the version is no number.
    """
    kind, data = (body["entity"], body["action"]), body["data"]
    if kind == ("model_version", "created"):
        version, run = int(data["version"]), (data.get("tags") or {}).get("ketcycle_run") or ""
        fact = {"name": data["name"], "version": version, "source": data.get("source") or "", "run_id": run}
        return "model.registered", fact, str(version)
    if kind == ("model_version_tag", "set") and data["key"] == "validation_status" and data["value"] in VALIDATED:
        version, by = int(data["version"]), f"tag validation_status={data['value']}"
        return "model.validated", {"name": data["name"], "version": version, "by": by}, f"{version} {by}"
    return None


def create_app(receiver: Receiver) -> FastAPI:
    """Return the application: `POST /events`, `POST /mlflow`, `GET /health`."""
    app = FastAPI(title="ketcycle webhooks", docs_url=None, redoc_url=None, openapi_url=None)

    async def take(request: Request, by: Callable[[Mapping[str, str], bytes], Answer]) -> JSONResponse:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST:
                return _response(Answer(413, f"a body has at most {LARGEST} bytes"))
        return _response(await run_in_threadpool(by, request.headers, bytes(body)))

    @app.post("/events")
    async def events(request: Request) -> JSONResponse:
        return await take(request, receiver.plain)

    @app.post("/mlflow")
    async def mlflow(request: Request) -> JSONResponse:
        return await take(request, receiver.mlflow)

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    return app


def serve(receiver: Receiver, host: str, port: int, certificate: Certificate | None) -> None:
    """Receive webhooks until interrupted; the caller has checked that the address is protected."""
    import uvicorn

    files = {"ssl_certfile": certificate.chain, "ssl_keyfile": certificate.key} if certificate else {}
    tls: Any = {name: str(path) for name, path in files.items()}
    app = create_app(receiver)
    uvicorn.run(app, host=host, port=port, log_level="warning", limit_concurrency=64, server_header=False, **tls)


def _response(answer: Answer) -> JSONResponse:
    said = {"said": answer.said} if answer.status < 400 else {"error": answer.said}
    return JSONResponse(said | ({"event": answer.event} if answer.event else {}), status_code=answer.status)


def _explain(error: ValidationError) -> str:
    said = (f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors())
    return f"expected JSON with id, sent, event and payload; {'; '.join(said)}"
