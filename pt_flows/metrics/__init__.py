"""Metrics of generated samples. Importing this package makes their short names known to the CLI."""

from pt_flows.metrics.density import GridKL
from pt_flows.metrics.features import DINOv2Features, InceptionFeatures, Lite0Features
from pt_flows.metrics.frechet import FrechetDistance
from pt_flows.metrics.inverse import InvariantR2, MutualInformation, SimulationError
from pt_flows.metrics.likelihood import LikelihoodBound
from pt_flows.metrics.modes import ModeCoverage
from pt_flows.metrics.one_layer import OneLayerError
from pt_flows.metrics.prediction import Accuracy, Risk
from pt_flows.metrics.quality import ImageQuality
from pt_flows.metrics.transfer import MapTransport, TransferAccuracy
from pt_flows.metrics.wasserstein import ExactWasserstein, SampleDiscrepancy

__all__ = [
    "Accuracy",
    "DINOv2Features",
    "ExactWasserstein",
    "FrechetDistance",
    "GridKL",
    "ImageQuality",
    "InceptionFeatures",
    "InvariantR2",
    "LikelihoodBound",
    "Lite0Features",
    "MapTransport",
    "ModeCoverage",
    "MutualInformation",
    "OneLayerError",
    "Risk",
    "SampleDiscrepancy",
    "SimulationError",
    "TransferAccuracy",
]
