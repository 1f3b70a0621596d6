"""A recurrent network for sequences."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pt_flows.bounds import Count, Positive
from pt_flows.contracts import RecurrentNet
from pt_flows.errors import UserError


class ElmanRNN(RecurrentNet):
    """One recurrent layer with tanh: s_t = tanh(U x_t + W s_{t-1} + b), logits V s_t + c.

    The layer is a `torch.nn.RNN`, so that its weights load into any other one. Its b is the sum of two biases.

    Args:
        event_shape: Length T and number F of features of a sequence.
        num_classes: Number C of classes.
        hidden: Number H of units.
        outputs: "last" for logits (B, C) after the last step, or "all" for logits (B, T, C).
        recurrent_gain: Largest singular value of W, which is orthogonal then; None for torch's uniform one.
    """

    def __init__(
        self,
        event_shape: Sequence[Count] = (28, 28),
        num_classes: Count = 10,
        hidden: Count = 64,
        outputs: Literal["last", "all"] = "last",
        recurrent_gain: Positive | None = None,
    ) -> None:
        super().__init__()
        if len(event_shape) != 2:
            got = f"{tuple(event_shape)}. Use data of sequences, such as ImageRows or Text"
            raise UserError(f"ElmanRNN.event_shape: expected length and features of sequences, got {got}")
        self.event_shape, self.num_classes, self.outputs = tuple(event_shape), num_classes, outputs
        self.rnn = nn.RNN(event_shape[1], hidden, batch_first=True)
        self.readout = nn.Linear(hidden, num_classes)
        if recurrent_gain is not None:
            nn.init.orthogonal_(self.rnn.weight_hh_l0, gain=recurrent_gain)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C), or (B, T, C), of sequences (B, T, F)."""
        states, last = self.rnn(x)
        return self.readout(states if self.outputs == "all" else last[0])

    def matrices(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return U, W, b, V and c; b is the sum of the two biases."""
        rnn: Any = self.rnn
        b = rnn.bias_ih_l0 + rnn.bias_hh_l0
        return rnn.weight_ih_l0, rnn.weight_hh_l0, b, self.readout.weight, self.readout.bias

    @torch.no_grad()
    def take(self, U: Tensor, W: Tensor, b: Tensor, V: Tensor, c: Tensor) -> None:
        """Set the weights; b (H,) becomes the first of the two biases, and the second zero."""
        rnn, readout = self.rnn, self.readout
        for parameter, value in (
            (rnn.weight_ih_l0, U), (rnn.weight_hh_l0, W), (rnn.bias_ih_l0, b), (rnn.bias_hh_l0, torch.zeros_like(b)),
            (readout.weight, V), (readout.bias, c),
        ):  # fmt: skip
            parameter.copy_(value)  # pyright: ignore[reportCallIssue]
