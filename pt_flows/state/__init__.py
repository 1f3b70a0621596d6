"""The few stateful helpers that a method composes: noise streams, weight averages, averages over ranks."""
