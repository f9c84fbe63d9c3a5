"""Which classifier is put on frozen features when few examples have labels."""
