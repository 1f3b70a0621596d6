"""Generative methods as discretised flows, trained and compared under the same conditions."""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_HOMES = {
    "Method": "pt_flows.loop.method",
    "ParticleFlow": "pt_flows.methods.flows.particle_flow",
    "EnergyMethod": "pt_flows.methods.energies.base",
    "Player": "pt_flows.training.player",
    "Generator": "pt_flows.training.players",
    "Critic": "pt_flows.training.players",
    "Energy": "pt_flows.training.players",
    "Encoder": "pt_flows.training.players",
    "Predictor": "pt_flows.training.predictor",
    "Schedule": "pt_flows.training.schedules",
    "RateControl": "pt_flows.training.rates",
    "FluctuationDissipation": "pt_flows.training.fluctuation",
    "ControlledRate": "pt_flows.training.controlled",
    "CSGD": "pt_flows.training.optim",
    "CMSGD": "pt_flows.training.optim",
    "AdversarialTraining": "pt_flows.methods",
    "DAEBM": "pt_flows.methods",
    "GradientLayers": "pt_flows.methods",
    "ImprovedCD": "pt_flows.methods",
    "PCD": "pt_flows.methods",
    "IWAE": "pt_flows.methods",
    "ADMMRNN": "pt_flows.methods",
    "CFM": "pt_flows.methods",
    "JSFlow": "pt_flows.methods",
    "MinibatchW2FE": "pt_flows.methods",
    "MomentGAN": "pt_flows.methods",
    "ODEGAN": "pt_flows.methods",
    "R3GAN": "pt_flows.methods",
    "SNGAN": "pt_flows.methods",
    "SimVAE": "pt_flows.methods",
    "W1FE": "pt_flows.methods",
    "W2FE": "pt_flows.methods",
    "WGANGP": "pt_flows.methods",
    "GeneratorNet": "pt_flows.contracts",
    "CriticNet": "pt_flows.contracts",
    "EnergyNet": "pt_flows.contracts",
    "FlowNet": "pt_flows.contracts",
    "DecoderNet": "pt_flows.contracts",
    "EncoderNet": "pt_flows.contracts",
    "PredictorNet": "pt_flows.contracts",
    "load": "pt_flows.evaluation.sharing",
    "sample": "pt_flows.samplers",
    "UserError": "pt_flows.errors",
}

__all__ = [*_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that the mathematics alone loads without Lightning."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pt_flows' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
