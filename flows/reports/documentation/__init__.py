"""Generated parts of the documentation: tables from evidence, the list of decisions, reference pages."""
