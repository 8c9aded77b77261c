"""Measures of trained models that a training run does not take itself."""
