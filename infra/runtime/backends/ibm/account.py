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
from qiskit_ibm_runtime.accounts import AccountManager, AccountNotFoundError

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
    named = environment("QISKIT_IBM_TOKEN")
    try:
        found = AccountManager.get()
    except AccountNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001  (whatever a damaged file makes of the client)
        raise BadInput(f"the vendor's account file cannot be read ({type(error).__name__}); save it again") from None
    source = "variable QISKIT_IBM_TOKEN" if named else "the vendor's account file"
    return Account(source, found.instance or "", found.token or "")


def redact(text: object) -> str:
    """Return a text without the secrets of the account."""
    plain = _SECRETS.sub("***", str(getattr(text, "message", text)))  # the client's errors print in quotes
    with suppress(BadInput):
        account = find_account()
        if account and account.token:
            plain = plain.replace(account.token, "***")
    return plain


def connect(settings: Settings) -> QiskitRuntimeService:
    """Open the platform with the vendor's account.

    Raises:
        BadInput: there is no account.
        Exception: whatever the client raises; its text may hold secrets, so show only `redact(error)`.
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
