"""Fetching web pages into WARC files."""
