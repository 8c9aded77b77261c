"""Synthetic speech whose words, voice and background are known, and questions about it."""
