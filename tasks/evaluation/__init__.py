"""Every figure that is derived from evidence."""
