"""Synthetic chest images whose findings are known, with their reports."""
