"""Formats of files: which one a file has, archives and bundles, encodings, web pages."""
