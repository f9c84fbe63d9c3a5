from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from infra.access import Certificate, Guard, init_tls, is_loopback, read_secret, require_guard
from infra.errors import BadInput
from infra.runtime.figures.metrics import serve_metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("home") / "tls"
    init_tls(made, ["127.0.0.2", "example.org"])
    return made


def test_the_certificate_is_of_the_authority_and_for_the_addresses(folder: Path) -> None:
    authority, mine = (x509.load_pem_x509_certificate((folder / n).read_bytes()) for n in ("ca.pem", "cert.pem"))
    mine.verify_directly_issued_by(authority)
    names = mine.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(ip) for ip in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "127.0.0.2"}
    assert names.get_values_for_type(x509.DNSName) == ["example.org", "localhost"]
    left = mine.not_valid_after_utc - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=800) < left < dt.timedelta(days=826)


def test_only_the_owner_reads_keys_and_secret(folder: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"ca-key.pem": 0o600, "ca.pem": 0o644, "cert.pem": 0o644, "key.pem": 0o600, "secret": 0o600}


def test_again_for_other_addresses_keeps_authority_and_secret(tmp_path: Path) -> None:
    init_tls(tmp_path, ["127.0.0.2"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    init_tls(tmp_path, ["127.0.0.9"])
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name for name in before if before[name] == after[name]} == {"ca.pem", "ca-key.pem", "secret"}


@pytest.mark.parametrize(("host", "expected"), [
    ("127.0.0.1", True), ("127.8.9.1", True), ("localhost", True), ("::1", True),
    ("0.0.0.0", False),  # noqa: S104
    ("::", False), ("192.168.0.4", False), ("example.org", False), ("", False),
])  # fmt: skip
def test_loopback_is_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_an_open_address_needs_both(folder: Path) -> None:
    certificate, secret = Certificate.of(folder), folder / "secret"
    require_guard("it", "0.0.0.0", Guard(certificate, secret))  # noqa: S104
    require_guard("it", "127.0.0.1", Guard())
    for guard, missing in (
        (Guard(), "TLS and a secret"),
        (Guard(certificate), "without a secret"),
        (Guard(None, secret), "without TLS"),
    ):
        with pytest.raises(BadInput, match=f"{missing}; `ketcycle up --init-tls --address 10.0.0.7`"):
            require_guard("it", "10.0.0.7", guard)


def test_what_a_home_has_is_found(folder: Path, tmp_path: Path) -> None:
    assert Guard.of(tmp_path) == Guard()
    found = Guard.of(folder.parent)
    assert found.certificate is not None
    assert found.key() == (folder / "secret").read_text().strip()


def test_a_secret_that_others_may_read_or_guess_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with pytest.raises(BadInput, match="cannot be read"):
        read_secret(path)
    path.write_text("x" * 40)
    path.chmod(0o644)
    with pytest.raises(BadInput, match="chmod 600"):
        read_secret(path)
    path.write_text("short")
    path.chmod(0o600)
    with pytest.raises(BadInput, match="at least 16") as refused:
        read_secret(path)
    assert "short" not in str(refused.value).replace("too short", "")


def test_metrics_are_shown_to_those_with_a_certificate_only(folder: Path, tmp_path: Path) -> None:
    found = Certificate.of(folder)
    assert found is not None
    address, stop = serve_metrics(tmp_path / "ledger.db", 0, "127.0.0.2", found)
    try:
        known = ssl.create_default_context(cafile=str(found.authority))
        with pytest.raises(httpx.TransportError):
            httpx.get(address, verify=known, trust_env=False)
        known.load_cert_chain(found.chain, found.key)
        assert httpx.get(address, verify=known, trust_env=False).status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(address, trust_env=False)
    finally:
        stop()
