"""The gateway: request log, energy, feedback and limits in front of any OpenAI-compatible server."""
