"""Messages posted to notify_url: for Slack, for Microsoft Teams, or as plain JSON."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from infra.settings import NotifyKind

SLACK = ("hooks.slack.com", "hooks.slack-gov.com")
TEAMS = (".webhook.office.com", ".logic.azure.com", ".api.powerplatform.com")  # connectors and workflows
SUBJECT, BODY = "{{subject}}", "{{body}}"  # Prefect's block puts the texts there


def kind_of(url: str) -> NotifyKind:
    """Return the service of an address: `slack`, `teams`, or `json` for any other."""
    host = urlsplit(url).hostname or ""
    if host in SLACK:
        return "slack"
    return "teams" if host.endswith(TEAMS) else "json"


def message(url: str, kind: NotifyKind = "auto") -> dict[str, Any]:
    """Return the body of a message as a template with a subject and a text.

    Slack takes `text` (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks), Teams an adaptive
    card in a message (https://learn.microsoft.com/en-us/connectors/teams), anything else gets both texts by name.

    Args:
        url: where it is posted.
        kind: the service; `auto` = by the address.
    """
    match kind_of(url) if kind == "auto" else kind:
        case "slack":
            return {"text": f"*{SUBJECT}*\n{BODY}"}
        case "teams":
            return {"type": "message", "attachments": [_card()]}
        case _:
            return {"subject": SUBJECT, "text": BODY}


def _card() -> dict[str, Any]:
    texts = [{"text": SUBJECT, "weight": "Bolder"}, {"text": BODY}]
    content = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [{"type": "TextBlock", "wrap": True, **text} for text in texts],
    }
    return {"contentType": "application/vnd.microsoft.card.adaptive", "content": content}
