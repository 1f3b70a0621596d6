"""Simulators: black boxes from a few parameters to observations. Importing them makes their short names known."""

from pt_flows.data.simulators.base import FunctionSimulator, Simulator
from pt_flows.data.simulators.circuit import RLCCircuit
from pt_flows.data.simulators.drawings import BoxPlot, FourierPlot, FourPointPolygon
from pt_flows.data.simulators.sprites import Sprites

__all__ = ["BoxPlot", "FourPointPolygon", "FourierPlot", "FunctionSimulator", "RLCCircuit", "Simulator", "Sprites"]
