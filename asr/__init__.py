"""Samples to words, and whether somebody is speaking."""
