"""Clips of sound and their records."""
