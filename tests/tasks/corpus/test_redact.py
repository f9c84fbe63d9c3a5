import pytest

from tasks.corpus.redact import redacted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe+x@mail.example.org, please.", "Write to <email>, please."),
        ("git@github.com:a/b and a@b, @decorator", "<email>:a/b and a@b, @decorator"),
        ("from 8.8.8.8 to 192.168.0.1, 127.0.0.1, 10.0.0.1", "from <ip> to 192.168.0.1, 127.0.0.1, 10.0.0.1"),
        ("version 1.2.3.4.5, 300.1.1.1 and 01.02.03", "version 1.2.3.4.5, 300.1.1.1 and 01.02.03"),
        ("call +49 (30) 1234 5678 or +1-202-555-0143.", "call <phone> or <phone>."),
        ("a + 12345678 + b; x=+1.5; 1+1234567890", "a + 12345678 + b; x=+1.5; 1+1234567890"),
        ("card 4111 1111 1111 1111 and 4111111111111112", "card <card> and 4111111111111112"),
        ("0000 0000 0000 0000 and 2026-11-23 10:00:00", "0000 0000 0000 0000 and 2026-11-23 10:00:00"),
    ],
)
def test_what_names_a_person_is_replaced(text: str, expected: str) -> None:
    assert redacted(text)[0] == expected


def test_replacements_are_counted_and_not_done_twice() -> None:
    text, found = redacted("a@b.org c@d.org 9.9.9.9 4111111111111111")
    assert found == {"email": 2, "ip": 1, "card": 1}
    assert redacted(text) == (text, {})
