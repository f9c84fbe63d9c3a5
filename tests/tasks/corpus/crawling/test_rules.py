from datetime import UTC, datetime
from ipaddress import IPv4Address

import pytest

pytest.importorskip("scrapy", reason="the crawler is an extra: pip install 'ketcycle[crawl]'")

from tasks.corpus.crawling.rules import Refused, clean_address, may_ask, retry_after_s

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ("https://Site.Example", "https://site.example/"),
        (" http://site.example:80/a#part ", "http://site.example/a"),
        ("https://site.example:443/a?b=c d", "https://site.example/a?b=c%20d"),
        ("http://site.example:8080/ä", "http://site.example:8080/%C3%A4"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("http://8.8.8.8/", "http://8.8.8.8/"),
    ],
)
def test_an_address_has_one_form(given, clean):
    assert clean_address(given, loopback=False) == clean
    assert clean_address(clean, loopback=False) == clean


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        ("file:///etc/passwd", "bad address"),
        ("ftp://site.example/", "bad address"),
        ("javascript:alert(1)", "bad address"),
        ("//site.example/", "bad address"),
        ("http://", "bad address"),
        ("http://site.example:99999/", "bad address"),
        ("http://user:pass@site.example/", "bad address"),
        ("http://site.example/" + "a" * 3000, "bad address"),
        ("http://[::1]/", "bad address"),
        ("http://[::ffff:10.0.0.1]/", "bad address"),
        ("http://[broken/", "bad address"),
        ("http://2130706433/", "bad address"),
        ("http://0x7f000001/", "bad address"),
        ("http://127.1/", "bad address"),
        ("http://0177.0.0.1/", "bad address"),
        ("http://127.0.0.01/", "bad address"),
        ("http://127.0.0.1./", "bad address"),
        ("http://127.0.0.1/", "private address"),
        ("http://10.1.2.3/", "private address"),
        ("http://192.168.0.1/", "private address"),
        ("http://172.16.0.1/", "private address"),
        ("http://100.64.0.1/", "private address"),
        ("http://169.254.169.254/latest/meta-data/", "private address"),
        ("http://0.0.0.0/", "private address"),
        ("http://224.0.0.1/", "private address"),
        ("http://255.255.255.255/", "private address"),
    ],
)
def test_other_addresses_are_refused(given, outcome):
    with pytest.raises(Refused) as refused:
        clean_address(given, loopback=False)
    assert refused.value.outcome == outcome


def test_loopback_alone_can_be_let_through():
    assert clean_address("http://127.0.0.1:8000/", loopback=True) == "http://127.0.0.1:8000/"
    assert may_ask(IPv4Address("127.9.9.9"), loopback=True)
    for other in ("10.0.0.1", "169.254.169.254", "0.0.0.0", "192.168.1.1"):  # noqa: S104
        assert not may_ask(IPv4Address(other), loopback=True)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (b"120", 120.0),
        (b" 0 ", 0.0),
        (b"Mon, 23 Nov 2026 12:01:00 GMT", 60.0),
        (b"Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
        (b"soon", None),
        (b"-5", None),
        (b"", None),
        (None, None),
        (b"\xff\xfe", None),
    ],
)
def test_retry_after_is_read_in_both_forms(header, seconds):
    assert retry_after_s(header, NOW) == seconds
