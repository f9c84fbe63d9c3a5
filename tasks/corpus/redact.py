"""Replace personal data: e-mail addresses, public IP addresses, telephone and card numbers.

Addresses follow the formatter of FineWeb (Penedo et al. 2024, arXiv 2406.17557, appendix on PII); numbers are replaced
only if they are marked (a leading `+`, or a valid check digit), because texts about software are full of digits. Names
are not detected.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address

EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
PHONE = re.compile(r"(?<![\w+])\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ .-]?\d){6,12}(?!\d)")
CARD = re.compile(r"(?<![\d-])\d(?:[ -]?\d){12,18}(?![\d-])")


def redacted(text: str) -> tuple[str, Counter[str]]:
    """Return the text with `<email>`, `<ip>`, `<phone>` and `<card>` for the matches, and their number by kind."""
    found: Counter[str] = Counter()
    for kind, pattern, counts in PATTERNS:

        def mark(match: re.Match[str], kind: str = kind, counts: Callable[[str], bool] = counts) -> str:
            if not counts(match[0]):
                return match[0]
            found[kind] += 1
            return f"<{kind}>"

        text = pattern.sub(mark, text)
    return text, found


def _is_public(address: str) -> bool:
    try:
        return ip_address(address).is_global
    except ValueError:  # a version number of four parts
        return False


def _has_check_digit(number: str) -> bool:
    """ISO/IEC 7812-1 (Luhn); a number of one repeated digit is none."""
    digits = [int(c) for c in number if c.isdigit()]
    doubled = [sum(divmod(2 * d, 10)) for d in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


PATTERNS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("email", EMAIL, bool),
    ("ip", IPV4, _is_public),
    ("phone", PHONE, bool),
    ("card", CARD, _has_check_digit),
)
