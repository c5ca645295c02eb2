"""Training and measuring what decides that a caller is done (`asr/turn_end.py`)."""
