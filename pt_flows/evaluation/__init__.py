"""Evaluation of trained methods."""
