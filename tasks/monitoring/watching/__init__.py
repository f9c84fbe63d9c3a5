"""What follows from window after window: states of drift and of quality, and the event that is announced."""
