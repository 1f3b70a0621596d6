"""Generative methods as discretised flows, trained and compared under the same conditions."""

__version__ = "0.1.0"
