"""Text to samples with word times."""
