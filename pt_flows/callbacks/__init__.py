"""Callbacks of a run: evaluation, pictures, checkpoints, progress."""

from pt_flows.callbacks.averages import PowerAverages
from pt_flows.callbacks.chains import ChainPicture
from pt_flows.callbacks.checkpoints import AtomicCheckpointIO, Checkpoints
from pt_flows.callbacks.evaluate import Evaluate
from pt_flows.callbacks.failure import Failure
from pt_flows.callbacks.flow import FlowPicture
from pt_flows.callbacks.performance import Performance
from pt_flows.callbacks.pictures import Pictures
from pt_flows.callbacks.progress import Progress
from pt_flows.callbacks.rates import Rates
from pt_flows.callbacks.rounds import PersistentRounds

__all__ = [
    "AtomicCheckpointIO",
    "ChainPicture",
    "Checkpoints",
    "Evaluate",
    "Failure",
    "FlowPicture",
    "Performance",
    "PersistentRounds",
    "Pictures",
    "PowerAverages",
    "Progress",
    "Rates",
]
