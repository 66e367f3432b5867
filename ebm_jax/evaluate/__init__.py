"""Evaluation of trained models: every metric comes with its protocol."""
