"""The 1-D convolutional network of gpSTS (Thomas et al., doi:10.1038/s41524-022-00777-9) for spectra.

Two convolutions (kernel 3, 64 and 128 channels), each with batch normalisation, ReLU and max pooling, then
dropout and one linear layer.  The paper pools with stride 1; stride 2 is as good here and four times as fast.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FEATURES = (64, 128)
DROPOUT = 0.5


class SpectrumNetwork(nn.Module):
    """Logits (n, classes) from spectra (n, channels, points); points divisible by 4."""

    def __init__(self, channels: int, points: int, classes: int) -> None:
        super().__init__()
        first, second = FEATURES
        self.body = nn.Sequential(
            nn.Conv1d(channels, first, kernel_size=3, padding=1),
            nn.BatchNorm1d(first),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(first, second, kernel_size=3, padding=1),
            nn.BatchNorm1d(second),
            nn.ReLU(),
            nn.MaxPool1d(2),
        )
        self.head = nn.Sequential(
            nn.Dropout(DROPOUT), nn.Flatten(), nn.Linear(second * (points // 4), classes)
        )

    def forward(self, spectra: Tensor) -> Tensor:
        """Logits (n, classes)."""
        logits: Tensor = self.head(self.body(spectra))
        return logits

    @torch.no_grad()
    def judge(self, spectra: Tensor, batch: int = 256) -> tuple[Tensor, Tensor]:
        """Logits (n, classes) and features (n, 256): mean and largest of each map over bias."""
        self.eval()
        logits, features = [], []
        for start in range(0, spectra.shape[0], batch):
            maps = self.body(spectra[start : start + batch])
            logits.append(self.head(maps))
            features.append(torch.cat([maps.mean(dim=2), maps.amax(dim=2)], dim=1))
        return torch.cat(logits), torch.cat(features)
