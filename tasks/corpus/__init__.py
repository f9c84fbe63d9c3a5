"""Reading, crawling and filtering of text."""
