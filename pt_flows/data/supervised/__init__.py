"""Data for predictions: samples with labels, values or labels of every step."""

from pt_flows.data.supervised.base import Supervised
from pt_flows.data.supervised.regression import Kink, LinearRegression
from pt_flows.data.supervised.sequences import ImageRows, Text

__all__ = ["ImageRows", "Kink", "LinearRegression", "Supervised", "Text"]
