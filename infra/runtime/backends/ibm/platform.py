"""What the platform answers, checked where it comes in, and the one request that makes a job.

Everything here goes through the vendor's client: its session, its addresses, its access tokens. Answers are read as
validated models, so a field that is missing or of another kind is an error of that one question. The request that
makes a job is posted once: the client would repeat it after 5xx, and each repetition can make a further job.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Annotated, Any, TypeVar
from weakref import WeakSet

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from qiskit.primitives import PrimitiveResult
from qiskit_ibm_runtime import IBMBackend, QiskitRuntimeService
from qiskit_ibm_runtime.decoders.defaults import DEFAULT_DECODERS
from qiskit_ibm_runtime.exceptions import IBMError, IBMInputValueError
from requests import ConnectionError as NoConnection
from requests import PreparedRequest, RequestException, Response
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProxyError

from infra.errors import BadAnswer, NoAnswer, SubmissionUnclear, TurnedAway
from infra.runtime.backends.ibm.account import redact

PAGE = 100
PENDING_LIMIT = 3458  # error code: as many jobs are waiting as the plan allows
RAN_TOO_LONG = 1305
CONNECT_S = 5.0
ANSWER_S = 60.0  # that an answer may pause; the client itself would wait for ever
POST_S = 900.0  # the same of the request that makes a job: one given up early could be carried out after it is repeated
BUSY = (429,)
REFUSED = (401, 402, 403)  # an account, a key or a plan that a person can change
SAID = 800  # characters of an answer that are quoted

M = TypeVar("M", bound=BaseModel)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class JobState(_Answer):
    """State of a job; a reason where it failed or was cancelled."""

    status: str
    reason: str | None = None
    reason_code: int | None = Field(None, validation_alias=AliasChoices("reason_code", "reasonCode"))


class JobAnswer(_Answer):
    """A job, as the service returns it by id or in a list."""

    id: str = Field(min_length=1)
    tags: list[str] | None = None
    state: JobState
    estimated_running_time_seconds: float | None = Field(None, ge=0, allow_inf_nan=False)


class Submitted(_Answer):
    """The answer to the request that makes a job."""

    id: str = Field(min_length=1, max_length=100)


class Listing(_Answer):
    """A page of jobs."""

    jobs: list[JobAnswer]


def _number(value: Any) -> Any:
    if isinstance(value, str | bool):
        raise ValueError("a number of seconds is expected")
    return value


class Usage(_Answer):
    """What a job used; its seconds are None until the service has settled them."""

    status: str | None = "pending"
    qpu_charge_time_seconds: Annotated[float | None, BeforeValidator(_number)] = Field(None, ge=0, allow_inf_nan=False)


class Metrics(_Answer):
    """Time stamps and usage of a job; only the usage is read."""

    usage: Usage | None = None


class _Post(threading.local):
    """The submission that this thread is making."""

    leaving: Callable[[], None] | None = None
    left: bool = False
    status: int | None = None
    text: str = ""


class _Once(HTTPAdapter):
    """Sends a request that makes a job once; all others as the client is set to, but with an end to the waiting.

    The client waits for ever for an answer, and for hours where the service says so (Retry-After), and the leader of
    all callers with it. Here a question is given up, and asked again after a pause of the dispatcher.
    """

    def __init__(self, usual: HTTPAdapter, post: _Post) -> None:
        super().__init__(max_retries=0)
        self._usual, self._post = usual, post
        usual.max_retries = usual.max_retries.new(respect_retry_after_header=False)
        _ADAPTERS.add(self)

    def close(self) -> None:
        """Close the connections."""
        super().close()
        self._usual.close()

    def leave_connections(self) -> None:
        """Make new connections from now on: those of a process that this one was forked from are its own."""
        for adapter in (self, self._usual):
            adapter.proxy_manager = {}
            adapter.init_poolmanager(adapter._pool_connections, adapter._pool_maxsize, adapter._pool_block)  # noqa: SLF001

    def send(self, request: PreparedRequest, *arguments: Any, **named: Any) -> Response:
        """Send a request; one that makes a job is announced right before its first byte."""
        post = self._post
        named["timeout"] = (CONNECT_S, ANSWER_S)
        if post.leaving is None or request.method != "POST" or not str(request.url).partition("?")[0].endswith("/jobs"):
            return self._usual.send(request, *arguments, **named)
        if post.left:
            raise NoConnection("the request that makes a job is sent once")
        named["timeout"] = (CONNECT_S, POST_S)
        post.leaving()
        post.left = True
        try:
            answer = super().send(request, *arguments, **named)
        except NoConnection as error:
            post.left = not _never_sent(error)
            raise
        post.status, post.text = answer.status_code, answer.text
        return answer


def _leave_connections() -> None:
    for adapter in list(_ADAPTERS):
        adapter.leave_connections()


_ADAPTERS: WeakSet[_Once] = WeakSet()
os.register_at_fork(after_in_child=_leave_connections)


def _never_sent(error: NoConnection) -> bool:
    """Say whether no connection was made; an error of a proxy or of TLS can also end one that carried the request."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    if isinstance(reason, ProxyError):
        reason = reason.original_error
    return isinstance(reason, NewConnectionError | ConnectTimeoutError)


class Platform:
    """One service instance of the platform, as its jobs are seen there.

    Args:
        service: the vendor's client.
        device: one of its devices; its instance is meant.
    """

    def __init__(self, service: QiskitRuntimeService, device: IBMBackend) -> None:
        # The client has no public way to an answer as it came.
        self._client = service._get_api_client(device._instance)  # noqa: SLF001
        self._name = device.name
        self._post = _Post()
        session = self._client._session  # noqa: SLF001
        for prefix in ("http://", "https://"):
            session.mount(prefix, _Once(session.get_adapter(f"{prefix}host"), self._post))

    def job(self, job_id: str) -> JobAnswer | None:
        """Return a job, or None if there is none with this id.

        Raises:
            NoAnswer: ask again.
            BadAnswer: the answer is no description of a job.
        """
        with self._asked("status"):
            try:
                found = self._client.job_get(job_id)
            except (IBMError, RequestException) as error:
                if status_code(error) == 404:
                    return None
                raise
        answer = _read(JobAnswer, found, f"the state of job {job_id}")
        if answer.id != job_id:
            raise BadAnswer(f"asked for job {job_id}, the service answered with job {answer.id}")
        return answer

    def jobs(self, tag: str) -> list[JobAnswer]:
        """Return the jobs that bear a tag, oldest first.

        Raises:
            NoAnswer: ask again.
            BadAnswer: the answer is no list of jobs.
        """
        listed: dict[str, JobAnswer] = {}
        seen = 0
        while True:
            with self._asked("list of jobs"):
                page = self._client.jobs_get(limit=PAGE, skip=seen, job_tags=[tag], descending=False)
            jobs = _read(Listing, page, f"the list of jobs with tag {tag}").jobs
            known, seen = len(listed), seen + len(jobs)
            listed |= {job.id: job for job in jobs}
            total = page.get("count") if isinstance(page, dict) else None
            if len(listed) == known or (isinstance(total, int) and seen >= total):  # pages may repeat for ever
                return [job for job in listed.values() if self._bears(job, tag)]

    def _bears(self, job: JobAnswer, tag: str) -> bool:
        """Return whether a listed job has a tag; if the list gives no tags, the job itself is fetched."""
        tags = job.tags
        if tags is None and (asked := self.job(job.id)) is not None:
            tags = asked.tags
        if tags is None:
            raise BadAnswer(f"job {job.id} is listed under tag {tag}, and the service does not tell its tags")
        return tag in tags

    def usage(self, job_id: str) -> Usage | None:
        """Return what a job used, or None if there is no such job.

        Raises:
            NoAnswer: ask again.
            BadAnswer: the answer states no number of seconds.
        """
        with self._asked("bill"):
            try:
                found = self._client.job_metadata(job_id)
            except (IBMError, RequestException) as error:
                if status_code(error) == 404:
                    return None
                raise
        return _read(Metrics, found, f"the bill of job {job_id}").usage or Usage()

    def result(self, job_id: str) -> PrimitiveResult:
        """Return the result of a job.

        Raises:
            NoAnswer: it cannot be read now: no answer, an answer that ends early, or a page of something in between.
            BadAnswer: it can be read, and is no result of a primitive.
        """
        with self._asked("result"):
            text = self._client.job_results(job_id)
        try:
            json.loads(text)
        except (TypeError, ValueError):
            said = f"it is empty or ends early: {str(text)[:80]!r}"
            raise NoAnswer(f"{self._name}: the result of job {job_id} cannot be read: {redact(said)}") from None
        try:
            found = reduce(
                lambda result, decoder: decoder.decode(result) if decoder.is_applicable(result) else result,
                DEFAULT_DECODERS["executor"],
                text,
            )
        except Exception as error:  # noqa: BLE001  (the decoders raise whatever a wrong field makes of them)
            raise BadAnswer(f"the result of job {job_id} is none: {_short(error)}") from None
        if not isinstance(found, PrimitiveResult) or len(found) == 0:
            raise BadAnswer(f"the result of job {job_id} holds no PUB")
        return found

    def cancel(self, job_id: str) -> None:
        """Cancel a job; nothing happens to one that is over or not there.

        Raises:
            NoAnswer: ask again.
        """
        with self._asked("cancellation"):
            try:
                self._client.job_cancel(job_id)
            except (IBMError, RequestException) as error:
                if status_code(error) not in (404, 409):
                    raise

    def post(self, make: Callable[[], Any], leaving: Callable[[], None]) -> str:
        """Let the client make a job, and return its id.

        Args:
            make: what makes the client submit, its questions before included.
            leaving: called right before the first byte of the submission leaves.

        Raises:
            TurnedAway: nothing left.
            SubmissionUnclear: it left, and no job id came back.
            IBMError: nothing left, and the client refuses to send it.
        """
        post = self._post
        post.leaving, post.left, post.status, post.text = leaving, False, None, ""
        try:
            made = make()
            return _read(Submitted, {"id": made.job_id()}, "the answer to the submission").id
        except Exception as error:  # whatever the client raises, what matters is whether anything left
            if post.left:
                raise SubmissionUnclear(f"{self._name}: {_said(error, post)}", _verdict(post)) from None
            if _may_pass(error):
                raise TurnedAway(f"{self._name}: nothing was sent: {_short(error)}") from None
            raise
        finally:
            post.leaving = None

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        """Turn everything that keeps a question from being answered into `NoAnswer`."""
        try:
            yield
        except NoAnswer:
            raise
        except Exception as error:  # noqa: BLE001  (a body that is no JSON, a token that is none: whatever it raises)
            code = status_code(error)
            hint = " (the account may not ask for it: check its rights and the instance)" if code == 403 else ""
            raise NoAnswer(f"{self._name}: no answer to the question for the {what}{hint}: {_short(error)}") from None


def _may_pass(error: Exception) -> bool:
    """Say whether what kept a question from being answered may be over soon: the line, or the service itself."""
    if not isinstance(error, RequestException | IBMError) or isinstance(error, IBMInputValueError):
        return False
    code = status_code(error)
    return code == -1 or code in (408, *BUSY) or code >= 500


def _verdict(post: _Post) -> Any:
    """Return what is to follow if no job is listed, from what the service answered to the submission."""
    code, number = post.status, post.status or 0
    if code in BUSY or _error_code(post.text) == PENDING_LIMIT:
        return "wait"
    if code in REFUSED:
        return "fail"
    if code is not None and 400 <= number < 500 and code != 408:
        return "refuse"
    return "resend"


def _error_code(text: str) -> int | None:
    """Return the service's own error code in the body of an answer."""
    try:
        found = json.loads(text)
        errors = found.get("errors") or [found.get("error") or {}]
        return int(errors[0].get("code"))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None


def _said(error: Exception, post: _Post) -> str:
    """Return what went wrong with a submission, with the service's own words where it answered."""
    if post.status is None:
        return f"the answer to the submission did not come: {_short(error)}"
    return f"the submission was answered {post.status}: {redact(post.text)[:SAID] or _short(error)}"


def _read(model: type[M], content: Any, what: str) -> M:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the answer"
        said = redact(str(first["input"]))[:60]
        raise BadAnswer(f"{what} makes no sense: {place} is {said!r}: {first['msg']}") from None


def _short(error: Exception) -> str:
    return redact(error)[:SAID] or type(error).__name__


def status_code(error: BaseException | None) -> int:
    """Return the HTTP status behind an error of the client, -1 where there was none."""
    while error is not None:
        found = getattr(error, "status_code", None)
        if isinstance(found, int) and found > 0:
            return found
        answer = getattr(error, "response", None)
        if answer is not None:
            return int(answer.status_code)
        error = error.__cause__ or error.__context__
    return -1
