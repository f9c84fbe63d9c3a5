"""Reports of studies and pilots as text, Markdown and HTML."""
