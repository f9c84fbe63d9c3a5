"""What the documentation takes from code and evidence: tables, lists of decisions, reference pages."""
