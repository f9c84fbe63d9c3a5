"""The vendor's account and how it is reached; secrets go into the client and nowhere else.

Credentials come from the vendor's own account file or its variables (QISKIT_IBM_TOKEN, QISKIT_IBM_INSTANCE). The
addresses of the platform are settings, handed to the client by what it documents: `url_resolver` for the API, and the
variables of the vendor's SDK for identity (IAM_URL) and for the search of instances (GLOBAL_SEARCH_URL,
GLOBAL_CATALOG_URL).
"""

from __future__ import annotations

import logging
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from qiskit_ibm_runtime import QiskitRuntimeService

from infra.errors import BadInput
from infra.settings import Settings, environment, hand_on

PUBLIC_API = "https://quantum.cloud.ibm.com/api/v1"
PUBLIC_IDENTITY = "https://iam.cloud.ibm.com"
ADVICE = (
    "export QISKIT_IBM_TOKEN (and QISKIT_IBM_INSTANCE), or save an account once with "
    "`QiskitRuntimeService.save_account(token=..., instance=..., set_as_default=True)`"
)
_SECRETS = re.compile(
    r"(Bearer|apikey)[\s=]+[^\s'\",&]+"  # headers and forms
    r"|eyJ[\w-]+\.[\w-]+\.[\w-]+"  # access tokens
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)",  # a proxy's password
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Account:
    """What is known of the vendor's account without asking anybody.

    Attributes:
        source: where it was found.
        instance: its service instance, if it names one.
        token: the API key; never shown.
    """

    source: str
    instance: str = ""
    token: str = field(default="", repr=False)


def find_account() -> Account | None:
    """Return the account that the client will use, or None if there is none.

    Raises:
        BadInput: the account file cannot be read.
    """
    if token := environment("QISKIT_IBM_TOKEN"):
        return Account("variable QISKIT_IBM_TOKEN", environment("QISKIT_IBM_INSTANCE") or "", token)
    saved = _saved()
    names = sorted(saved, key=lambda name: not saved[name].get("is_default_account"))
    if not names:
        return None
    found = saved[names[0]]
    return Account(f"account file, {names[0]}", found.get("instance") or "", found.get("token") or "")


def _saved() -> dict[str, dict[str, Any]]:
    try:
        return dict(QiskitRuntimeService.saved_accounts())
    except Exception as error:  # seam: whatever a damaged file makes of the client
        raise BadInput(f"the vendor's account file cannot be read ({type(error).__name__}); save it again") from None


def redact(text: object) -> str:
    """Return a text without the secrets of any account that is known here."""
    plain = _SECRETS.sub("***", str(text))
    tokens = {environment("QISKIT_IBM_TOKEN")}
    with suppress(BadInput):
        tokens |= {account.get("token") for account in _saved().values()}
    for token in tokens - {None, ""}:
        plain = plain.replace(str(token), "***")
    return plain


def connect(settings: Settings) -> QiskitRuntimeService:
    """Open the platform with the vendor's account.

    Raises:
        BadInput: there is no account.
        Exception: whatever the client raises; its text may hold secrets, so hand on only `redact(error)`.
    """
    account = find_account()
    if account is None:
        raise BadInput(f"no account of the quantum platform was found; {ADVICE}")
    # Its warnings of a refused token and its debug lines repeat what was sent.
    for name in ("qiskit_ibm_runtime", "ibm-cloud-sdk-core"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="Unable to retrieve IBM Cloud access token")
    if settings.ibm_identity_url:
        hand_on(IAM_URL=settings.ibm_identity_url)
    if settings.ibm_search_url:
        hand_on(GLOBAL_SEARCH_URL=settings.ibm_search_url, GLOBAL_CATALOG_URL=settings.ibm_search_url)
    options: dict[str, Any] = {"instance": settings.ibm_instance or account.instance or "auto"}
    if settings.ibm_api_url:
        options["url_resolver"] = lambda *_: settings.ibm_api_url
    return QiskitRuntimeService(**options)
