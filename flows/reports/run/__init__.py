"""The report of a run: on one screen, as tables, as Markdown and as HTML; and two runs side by side."""
