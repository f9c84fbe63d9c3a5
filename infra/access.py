"""Access to services: loopback is open to this machine, any other address needs a certificate and a secret.

The module also creates the certificates: a certificate authority, and one certificate for all services of an
installation. Traffic between machines is encrypted. Dask uses mutual TLS; clients of the web pages verify the server.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.errors import BadInput

DAYS = 825
KEY_BYTES = 32
SHORTEST_KEY = 16


@dataclass(frozen=True)
class Certificate:
    """Files of a certificate, PEM.

    Attributes:
        authority: certificate of the authority, which clients need.
        chain: certificate of the service.
        key: private key of the service.
    """

    authority: Path
    chain: Path
    key: Path

    @classmethod
    def of(cls, folder: Path) -> Certificate | None:
        """Return the certificate in a folder, or None if there is none."""
        found = cls(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
        return found if all(path.is_file() for path in (found.authority, found.chain, found.key)) else None


@dataclass(frozen=True)
class Guard:
    """Certificate and secret of a service.

    Attributes:
        certificate: certificate for TLS, or None.
        key_file: file with the secret that clients send, or None.
    """

    certificate: Certificate | None = None
    key_file: Path | None = None

    @classmethod
    def of(cls, home: Path) -> Guard:
        """Return the certificate and secret that `ketcycle up --init-tls` created in a home; both None otherwise."""
        secret = home / "tls" / "secret"
        return cls(Certificate.of(home / "tls"), secret if secret.is_file() else None)

    def key(self) -> str | None:
        """Return the secret.

        Raises:
            BadInput: the file is missing, empty, too short, or others may read it.
        """
        return None if self.key_file is None else read_secret(self.key_file)


def init_tls(folder: Path, hosts: Sequence[str]) -> Certificate:
    """Create an authority, one certificate for some addresses, and a secret; an existing authority and secret are kept.

    Certificates are ECDSA P-256 and valid for 825 days; all machines of an installation share the folder.

    Args:
        folder: folder of the files; only its owner may read keys and secret.
        hosts: names and addresses of the services; loopback is always added.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    found = Certificate(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    authority_key = folder / "ca-key.pem"
    if not (found.authority.is_file() and authority_key.is_file()):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ketcycle authority")])
        made = _certificate(name, name, key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        uses = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        signed = made.add_extension(uses, critical=True).sign(key, hashes.SHA256())
        _write(authority_key, _pem(key), secret=True)
        _write(found.authority, signed.public_bytes(serialization.Encoding.PEM))
    issuer = x509.load_pem_x509_certificate(found.authority.read_bytes())
    signer = serialization.load_pem_private_key(authority_key.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)  # noqa: S101
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ketcycle")])
    names = [_general_name(host) for host in dict.fromkeys([*hosts, "localhost", "127.0.0.1"])]
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    signed = (
        _certificate(subject, issuer.subject, key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(both, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    _write(found.key, _pem(key), secret=True)
    _write(found.chain, signed.public_bytes(serialization.Encoding.PEM))
    write_secret(folder / "secret")
    return found


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Write a file atomically; a secret file is readable by its owner only from the first byte on."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644), "wb") as stream:
        stream.write(content)
    draft.replace(path)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_guard(what: str, host: str, guard: Guard) -> None:
    """Refuse to bind an address that other machines can reach without certificate and secret.

    Args:
        what: action for the error message, e.g. `serving on 0.0.0.0`.
        host: address that would be bound.
        guard: certificate and secret of the service.

    Raises:
        BadInput: the address is not loopback, and certificate or secret are missing.
    """
    if is_loopback(host):
        return
    missing = [] if guard.certificate else ["TLS"]
    missing += [] if guard.key_file else ["a secret"]
    if missing:
        raise BadInput(
            f"{what} would be open to others without {' and '.join(missing)}; `ketcycle up --init-tls --address "
            f"{host}` makes both, 127.0.0.1 needs neither"
        )


def shown(host: str) -> str:
    """Return an address in the form used in URLs."""
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
    """Write a new secret that only the owner may read; return False if there is one already, which is kept."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as stream:
        stream.write(secrets.token_urlsafe(KEY_BYTES) + "\n")
    return True
