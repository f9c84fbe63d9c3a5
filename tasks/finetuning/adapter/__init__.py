"""Which adapter one frozen projection gets, and who executes it."""
