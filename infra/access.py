"""Who may reach a service: loopback is open to this machine, everything else needs a certificate and a secret.

Makes the certificates too: an own authority, and one certificate for all services of an installation. Traffic between
machines is encrypted and both sides of Dask's are known; a client of the web pages checks the server's.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from infra.errors import BadInput

DAYS = 825
KEY_BYTES = 32
SHORTEST_KEY = 16


@dataclass(frozen=True)
class Certificate:
    """Files of a certificate, PEM.

    Attributes:
        authority: certificate of the authority, for those who connect.
        chain: the service's certificate.
        key: its private key.
    """

    authority: Path
    chain: Path
    key: Path

    @classmethod
    def of(cls, folder: Path) -> Certificate | None:
        """Return the certificate of a folder, or None where it has none."""
        found = cls(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
        return found if all(path.is_file() for path in (found.authority, found.chain, found.key)) else None


@dataclass(frozen=True)
class Guard:
    """What protects a service.

    Attributes:
        certificate: for TLS, or None.
        key_file: file with the secret that clients send, or None.
    """

    certificate: Certificate | None = None
    key_file: Path | None = None

    @classmethod
    def of(cls, home: Path) -> Guard:
        """Return what `ketcycle up --init-tls` made in a home, empty where it did not."""
        secret = home / "tls" / "secret"
        return cls(Certificate.of(home / "tls"), secret if secret.is_file() else None)

    def key(self) -> str | None:
        """Return the secret.

        Raises:
            BadInput: the file is missing, empty, too short, or others may read it.
        """
        return None if self.key_file is None else read_secret(self.key_file)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_guard(what: str, host: str, guard: Guard) -> None:
    """See to it that a service that others can reach is protected.

    Args:
        what: what is refused, e.g. `serving on 0.0.0.0`.
        host: address that would be bound.
        guard: what there is.

    Raises:
        BadInput: the address is not loopback, and certificate or secret are missing.
    """
    if is_loopback(host):
        return
    missing = [] if guard.certificate else ["TLS"]
    missing += [] if guard.key_file else ["a secret"]
    if missing:
        raise BadInput(
            f"{what} would be open to others, so it needs TLS and a secret; {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing. `ketcycle up --init-tls --address {host}` makes both, "
            "127.0.0.1 needs neither"
        )


def shown(host: str) -> str:
    """Return an address as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def read_secret(path: Path) -> str:
    """Read a secret.

    Raises:
        BadInput: the file is missing, too short, or others may read it.
    """
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise BadInput(f"others may read the secret in {path}; `chmod 600 {path}`")
        secret = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise BadInput(f"the secret in {path} cannot be read ({error.strerror})") from None
    if len(secret) < SHORTEST_KEY or not secret.isprintable() or not secret.isascii():
        raise BadInput(f"the secret in {path} should be at least {SHORTEST_KEY} printable ASCII characters")
    return secret


def write_secret(path: Path) -> bool:
    """Write a new secret that only the owner may read; one that is there stays, and False is returned."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as stream:
        stream.write(secrets.token_urlsafe(KEY_BYTES) + "\n")
    return True
