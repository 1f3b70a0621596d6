"""Architectures only: constructors and forward, no losses. Importing this package makes their short names known."""

from pt_flows.nets.dcgan import DCGANCritic, DCGANGenerator
from pt_flows.nets.energy import ConvEnergy, MLPEnergy, MultiScaleEnergy
from pt_flows.nets.latent import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from pt_flows.nets.mlp import MLPCritic, MLPGenerator, ResidualMLPGenerator
from pt_flows.nets.one_layer import OneLayerGenerator, QuadraticCritic
from pt_flows.nets.predictors import ConvClassifier, LeNet5, LinearPredictor, MLPPredictor
from pt_flows.nets.recurrent import ElmanRNN
from pt_flows.nets.resnet import ResNetCritic, ResNetGenerator
from pt_flows.nets.sndcgan import SNDCGANCritic, SNDCGANGenerator
from pt_flows.nets.time_energy import TimeMLPEnergy, TimeResNetEnergy
from pt_flows.nets.transport import ConvTransportMap
from pt_flows.nets.velocity import ConvFlow, MLPFlow

__all__ = [
    "ConvClassifier",
    "ConvDecoder",
    "ConvEncoder",
    "ConvEnergy",
    "ConvFlow",
    "ConvTransportMap",
    "DCGANCritic",
    "DCGANGenerator",
    "ElmanRNN",
    "LeNet5",
    "LinearPredictor",
    "MLPCritic",
    "MLPDecoder",
    "MLPEncoder",
    "MLPEnergy",
    "MLPFlow",
    "MLPGenerator",
    "MLPPredictor",
    "MultiScaleEnergy",
    "OneLayerGenerator",
    "QuadraticCritic",
    "ResNetCritic",
    "ResNetGenerator",
    "ResidualMLPGenerator",
    "SNDCGANCritic",
    "SNDCGANGenerator",
    "TimeMLPEnergy",
    "TimeResNetEnergy",
]
