"""The tables of a rank: the rows of its users and of its items, with the state of their optimisers.

The rows of a user or item start with numbers that its lane decides, so that they do not depend on the number of ranks.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsys.training.config import Config
from recsys.training.optimizer import AdamW
from recsys.training.ranks.group import Group
from recsys.training.ranks.partition import Partition
from recsys.training.rowwise import WINDOW

_USERS, _ITEMS, _IMPLICIT = range(3)


class Tables:
    """The parameters of a dot product over ranks.

    Attributes:
        lanes: of this rank.
        first_item: index of the first item of this rank.
        user_factors, user_bias: (n_users of this rank, n_factors), (n_users,).
        item_factors, item_bias: (n_items of this rank, n_factors), (n_items,).
        implicit: (n_items of this rank, n_factors), y; `None` without the implicit term of the users.
        global_bias: (), the same on every rank.
        of_users, of_items: the optimisers of both sides. That of the items has the global bias.
    """

    def __init__(self, group: Group, data: Partition, config: Config, seed: int) -> None:
        width = config.n_factors
        assert width is not None
        self.lanes = data.layout.lanes_of(group.rank)
        self._user_starts = data.user_starts(self.lanes).reshape(-1)
        n_slots = data.layout.n_slots
        bounds = data.layout.item_bounds(data.n_items)[self.lanes.start : self.lanes.stop + 1]
        self.first_item = int(bounds[0])
        self._item_starts = bounds - bounds[0]

        def drawn(kind: int, parts: list[tuple[list[int], int]]) -> nn.Parameter:
            table = torch.empty(sum(n for _, n in parts), width)
            first = 0
            for of, n in parts:
                chosen = np.random.SeedSequence([seed, kind, *of]).generate_state(2)
                generator = torch.Generator().manual_seed(int(chosen[0]) << 32 | int(chosen[1]))
                table[first : first + n] = torch.randn(n, width, generator=generator) * config.init_std
                first += n
            return nn.Parameter(table.to(group.device))

        per_bucket = [([lane, slot], int(data.n_users[lane, slot])) for lane in self.lanes for slot in range(n_slots)]
        per_lane = [([lane], int(n)) for lane, n in zip(self.lanes, np.diff(bounds), strict=True)]
        self.user_factors = drawn(_USERS, per_bucket)
        self.item_factors = drawn(_ITEMS, per_lane)
        self.implicit = drawn(_IMPLICIT, per_lane) if config.implicit else None
        self.user_bias = nn.Parameter(torch.zeros(len(self.user_factors), device=group.device))
        self.item_bias = nn.Parameter(torch.zeros(len(self.item_factors), device=group.device))
        self.global_bias = nn.Parameter(torch.zeros(1, device=group.device))
        self._slots_of = n_slots
        decay, of_bias = config.weight_decay, config.bias_weight_decay
        self.of_users = AdamW(
            [
                {"params": [self.user_factors], "weight_decay": decay},
                {"params": [self.user_bias], "weight_decay": of_bias},
            ]
        )
        tables = [self.item_factors] if self.implicit is None else [self.item_factors, self.implicit]
        self.of_items = AdamW(
            [
                {"params": tables, "weight_decay": decay},
                {"params": [self.item_bias], "weight_decay": of_bias},
                {"params": [self.global_bias], "weight_decay": 0.0},
            ]
        )

    def bucket_rows(self, lane: int, slot: int) -> slice:
        """Return the rows of the users of a bucket."""
        at = (lane - self.lanes.start) * self._slots_of + slot
        return slice(int(self._user_starts[at]), int(self._user_starts[at + 1]))

    def settle(self) -> None:
        """Bring every row to the last step taken, for good."""
        self.of_users.settle()
        self.of_items.settle()

    def state(self) -> dict[str, Tensor]:
        """Return the state of every lane of this rank by name, as views of the tables, to be saved or loaded into."""
        found: dict[str, Tensor] = {}
        for name, parameter, optimizer, of_users in self._parameters():
            state = optimizer.state_of(parameter)
            parts = {"": parameter.detach(), ".mean": state["exp_avg"], ".variance": state["exp_avg_sq"]}
            parts |= {".last": state["last"]} if "last" in state else {}
            for lane in self.lanes:
                rows = self._lane_rows(lane, of_users)
                found |= {f"lane{lane}.{name}{part}": table[rows] for part, table in parts.items()}
        found["global_bias"] = self.global_bias.detach()
        state = self.of_items.state_of(self.global_bias)
        found |= {"global_bias.mean": state["exp_avg"], "global_bias.variance": state["exp_avg_sq"]}
        return found

    def numbers(self) -> dict[str, Any]:
        """Return what is the same on every rank: the steps taken of each table, and the tails of `rowwise`."""
        found: dict[str, Any] = {}
        for name, parameter, optimizer, _ in [*self._parameters(), ("global_bias", self.global_bias, self.of_items, 0)]:
            state = optimizer.state_of(parameter)
            tail = state["tail"].tolist() if "tail" in state else None
            found[name] = {"step": int(state["step"]), "tail": tail}
        return found

    def prepare(self, numbers: Mapping[str, Any]) -> None:
        """Give the optimisers the state that `numbers` describes, so that `state` has all its tensors."""
        for name, parameter, optimizer, _ in [*self._parameters(), ("global_bias", self.global_bias, self.of_items, 0)]:
            state = optimizer.state_of(parameter)
            state["step"].fill_(numbers[name]["step"])
            if numbers[name]["tail"] is not None:
                state["tail"] = torch.tensor(numbers[name]["tail"], dtype=torch.float64, device=parameter.device)
                state["last"] = torch.zeros(len(parameter), dtype=torch.int32, device=parameter.device)
                assert state["tail"].shape[1] == WINDOW

    def _lane_rows(self, lane: int, of_users: bool) -> slice:
        at = lane - self.lanes.start
        if of_users:
            return slice(int(self._user_starts[at * self._slots_of]), int(self._user_starts[(at + 1) * self._slots_of]))
        return slice(int(self._item_starts[at]), int(self._item_starts[at + 1]))

    def _parameters(self) -> list[tuple[str, nn.Parameter, AdamW, bool]]:
        tables: list[tuple[str, nn.Parameter, AdamW, bool]] = [
            ("user_factors", self.user_factors, self.of_users, True),
            ("user_bias", self.user_bias, self.of_users, True),
            ("item_factors", self.item_factors, self.of_items, False),
            ("item_bias", self.item_bias, self.of_items, False),
        ]
        if self.implicit is not None:
            tables.append(("implicit", self.implicit, self.of_items, False))
        return tables


def row_gradient(table: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """Return a gradient of some rows of a table, ascending and distinct, as `AdamW` takes it."""
    return torch.sparse_coo_tensor(rows[None], values, table.shape, check_invariants=False, is_coalesced=True)
