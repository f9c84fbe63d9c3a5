"""Which of a few documents is the longest: as small as a complete decision can be."""
