"""The mathematics: pure functions of tensors, without modules, Lightning or global randomness.

They import torch, and POT for optimal transport.
"""
