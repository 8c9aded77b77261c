"""Requests in, texts out."""
