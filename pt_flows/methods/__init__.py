"""The methods, one paper a file. Importing this package makes their short names known to the command line."""

from pt_flows.methods.energies.da_ebm import DAEBM
from pt_flows.methods.energies.improved_cd import ImprovedCD
from pt_flows.methods.energies.pcd import PCD
from pt_flows.methods.flows.cfm import CFM
from pt_flows.methods.flows.js_flow import JSFlow
from pt_flows.methods.flows.minibatch_w2_fe import MinibatchW2FE
from pt_flows.methods.flows.w1_fe import W1FE
from pt_flows.methods.flows.w2_fe import W2FE
from pt_flows.methods.games.gradient_layers import GradientLayers
from pt_flows.methods.games.moment_gan import MomentGAN
from pt_flows.methods.games.ode_gan import ODEGAN
from pt_flows.methods.games.r3gan import R3GAN
from pt_flows.methods.games.sngan import SNGAN
from pt_flows.methods.games.wgan_gp import WGANGP
from pt_flows.methods.latent.iwae import IWAE
from pt_flows.methods.latent.sim_vae import SimVAE
from pt_flows.methods.supervised.admm_rnn import ADMMRNN
from pt_flows.methods.supervised.adversarial_training import AdversarialTraining

__all__ = [
    "ADMMRNN",
    "CFM",
    "DAEBM",
    "IWAE",
    "ODEGAN",
    "PCD",
    "R3GAN",
    "SNGAN",
    "W1FE",
    "W2FE",
    "WGANGP",
    "AdversarialTraining",
    "GradientLayers",
    "ImprovedCD",
    "JSFlow",
    "MinibatchW2FE",
    "MomentGAN",
    "SimVAE",
]
