"""The steps of the optimiser: what changes in them, all of which a checkpoint keeps."""

from __future__ import annotations

from typing import Any

import torch

from training.checkpoints import State
from training.lanes import device
from training.recipes import Recipe


class Steps:
    """The optimiser of `trained`, of `total` steps in all: weights, their moving average, and the random state.

    A group's `lr` is its peak rate.
    """

    def __init__(self, trained: torch.nn.Module, groups: list[dict[str, Any]], recipe: Recipe, total: int) -> None:
        self.step = 0
        self._total = total
        self._loss = torch.zeros((), device=device())
        self._trained = trained
        self._peaks = [group["lr"] for group in groups]
        self._optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
        self.mean = torch.optim.swa_utils.AveragedModel(
            trained,
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.average),  # type: ignore[no-untyped-call]
        )

    def update(self, loss: torch.Tensor) -> None:
        """Make a step with the gradients of a batch that has this loss."""
        self._loss += loss
        torch.nn.utils.clip_grad_norm_(self._trained.parameters(), 1.0)
        left = (self._total - self.step) / (0.94 * self._total)
        share = min((self.step + 1) / (0.06 * self._total), max(0.02, left))
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * share
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.mean.update_parameters(self._trained)
        self.step += 1

    def summed_loss(self) -> float:
        """The sum of the losses since the last call."""
        loss = self._loss.item()
        self._loss.zero_()
        return loss

    def saved(self) -> State:
        """All of it, for `restore`."""
        moments = self._optimizer.state_dict()["state"]
        return {
            "step": torch.tensor(self.step),
            "loss": self._loss,
            **{f"weights {name}": value for name, value in self._trained.state_dict().items()},
            **{f"mean {name}": value for name, value in self.mean.state_dict().items()},
            **{f"moments {index} {name}": value for index, of in moments.items() for name, value in of.items()},
            "random": torch.get_rng_state(),
            **{f"cuda {index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())},
        }

    def restore(self, saved: State) -> None:
        """Continue from what `saved` gave."""
        self.step = int(saved["step"])
        self._loss.copy_(saved["loss"])
        self._trained.load_state_dict(_under("weights", saved))
        self.mean.load_state_dict(_under("mean", saved))
        moments: dict[int, State] = {}
        for key, value in _under("moments", saved).items():
            index, name = key.split(" ")
            moments.setdefault(int(index), {})[name] = value
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": moments})
        torch.set_rng_state(saved["random"])
        torch.cuda.set_rng_state_all(list(_under("cuda", saved).values()))


def _under(kind: str, saved: State) -> State:
    """The tensors of a kind, by what stands behind it in their names."""
    return {key.removeprefix(f"{kind} "): value for key, value in saved.items() if key.startswith(f"{kind} ")}
