"""Reports of drift on the console, as pages and for Prometheus."""
