"""Messages in the forms of the services, as Prefect's block posts them to a server on loopback."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.notify import kind_of, message

SUBJECT, BODY = 'drift.detected on "m"', "window: w1\nstate: alert"


def test_the_service_is_known_by_its_address() -> None:
    assert kind_of("https://hooks.slack.com/services/T0/B0/x") == "slack"
    assert kind_of("https://contoso.webhook.office.com/webhookb2/x") == "teams"
    assert kind_of("https://prod-01.westeurope.logic.azure.com:443/workflows/x") == "teams"
    for url in ("https://example.org/hooks.slack.com", "https://hooks.slack.com.evil.org/x", "http://127.0.0.1:9/x"):
        assert kind_of(url) == "json"


@pytest.mark.parametrize("kind", ["slack", "teams", "json"])
def test_subject_and_text_arrive_in_the_form_of_the_service(
    kind: Any, posted: tuple[str, list[dict[str, Any]]]
) -> None:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    url, bodies = posted
    data = {"name": "ketcycle", "url": url, "method": "POST", "json_data": message(url, kind)}
    block: Any = CustomWebhookNotificationBlock.model_validate(data)
    block.notify(BODY, SUBJECT)
    (body,) = bodies
    if kind == "slack":
        assert body == {"text": f"*{SUBJECT}*\n{BODY}"}
    elif kind == "json":
        assert body == {"subject": SUBJECT, "text": BODY}
    else:
        (attachment,) = body["attachments"]
        assert (body["type"], attachment["contentType"]) == ("message", "application/vnd.microsoft.card.adaptive")
        assert [block["text"] for block in attachment["content"]["body"]] == [SUBJECT, BODY]
        assert {block["type"] for block in attachment["content"]["body"]} == {"TextBlock"}
