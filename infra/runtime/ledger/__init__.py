"""The write-ahead record of the queue, its leases and its budget."""
