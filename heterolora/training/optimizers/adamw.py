"""AdamW (https://arxiv.org/abs/1711.05101), the optimizer of the paper."""

from __future__ import annotations

from dataclasses import dataclass

from heterolora.settings import setting, torch
from heterolora.training.optimizers.base import Optimizer


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """torch's fused AdamW."""

    weight_decay: float = setting(0.01, help="decoupled weight decay", ge=0)
    betas: tuple[float, ...] = setting(
        (0.9, 0.999), help="decay rates of the running averages", example="[0.9,0.999]"
    )
    eps: float = setting(1e-8, help="added to the denominator", gt=0, lt=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(
                f"betas={list(self.betas)}: must be two numbers greater than or equal to 0 and "
                "less than 1"
            )

    def over(self, parameters: list[torch.nn.Parameter]) -> torch.optim.AdamW:
        """Return torch's fused AdamW over these parameters."""
        first, second = self.betas
        return torch.optim.AdamW(
            parameters,
            lr=self.learning_rate,
            betas=(first, second),
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
        )
