"""Time: marks, stages and what they add up to."""
