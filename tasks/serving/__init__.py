"""The completion server and its request log, shared by inference and monitoring."""
