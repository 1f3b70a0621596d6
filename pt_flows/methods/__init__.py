"""The methods, one paper a file. Importing this package makes their short names known to the CLI."""

from pt_flows.methods.da_ebm import DAEBM
from pt_flows.methods.improved_cd import ImprovedCD
from pt_flows.methods.js_flow import JSFlow
from pt_flows.methods.minibatch_w2_fe import MinibatchW2FE
from pt_flows.methods.ode_gan import ODEGAN
from pt_flows.methods.pcd import PCD
from pt_flows.methods.w1_fe import W1FE
from pt_flows.methods.w2_fe import W2FE
from pt_flows.methods.wgan_gp import WGANGP

__all__ = ["DAEBM", "ODEGAN", "PCD", "W1FE", "W2FE", "WGANGP", "ImprovedCD", "JSFlow", "MinibatchW2FE"]
