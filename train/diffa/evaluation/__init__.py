"""Benchmarks of spoken questions: their files, prompts and scoring rules, as published."""
