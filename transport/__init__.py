"""Wires to samples and messages, and back."""
