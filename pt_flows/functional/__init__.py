"""The mathematics: pure functions of tensors. Imports torch only; no module, no Lightning, no global randomness."""
