"""A convolutional recurrent network for lines of text, small (Shi, Bai and Yao, 2015).

Convolutions read the image, a bidirectional LSTM the columns that are left. The last BatchNorm is the one of
Deep Speech 2 (Amodei et al., 2015): over the sequence that the LSTM reads. The LayerNorm normalises with each
frame's own statistics: it is none of bnfold's business and stays.
"""

from __future__ import annotations

import torch
from layers import conv_norm
from torch import nn


class CRNN(nn.Module):
    """Input: (batch, 1, 16, 64). Output: logits per column, (batch, 16, 11): ten digits and a blank."""

    def __init__(self, width: int = 24, hidden: int = 12) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_norm(1, 8, 3, act=nn.ReLU()),
            nn.MaxPool2d(2),
            conv_norm(8, 16, 3, act=nn.ReLU()),
            nn.MaxPool2d(2),
            nn.Conv2d(16, width, (4, 1)),
            nn.ReLU(),
        )
        self.norm = nn.BatchNorm1d(width)
        self.lstm = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.layer_norm = nn.LayerNorm(2 * hidden)
        self.classifier = nn.Linear(2 * hidden, 11)

    def forward(self, line: torch.Tensor) -> torch.Tensor:
        columns = self.norm(self.features(line).squeeze(2)).transpose(1, 2)
        read, _ = self.lstm(columns)
        logits: torch.Tensor = self.classifier(self.layer_norm(read))
        return logits
