"""All arms of one decision over its instance bank."""
