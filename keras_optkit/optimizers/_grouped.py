"""Settings of single weights, as an optimizer keeps and saves them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_optkit import _backend, _check, _match
from keras_optkit.optimizers._pace import Pace, own_paces
from keras_optkit.optimizers._policies import Policies
from keras_optkit.optimizers._slots import read
from keras_optkit.optimizers._step import Step


class Grouped(Step):
    """Keeps groups and exclusions through copying, saving and loading."""

    _undecayed: tuple[str, ...] = ()
    _policies: Policies
    _pace: Any = None
    _counts: Any = None

    def set_paces(self, paces: Sequence[float]) -> None:
        """Sets how fast each weight moves, on top of what groups say, from the next step on.

        For eager code, between steps. A step that is compiled already takes other paces without
        being traced again, but the first ones ever set only if it is traced anew.

        Args:
            paces: Factors of the learning rate, 0 or more, in the order of the weights that the
                optimizer was built with; 0 leaves a weight and its slots alone.
        """
        count = len(self._trainable_variables)
        if not self.built or len(paces) != count:
            raise ValueError(
                "`paces` must hold a factor for each weight that the optimizer was built with, "
                f"{count} of them. {_check.received('paces', paces)}"
            )
        paces = [_check.in_range(f"paces[{i}]", pace, low=0) for i, pace in enumerate(paces)]
        if self._pace is None:
            self._pace = self.add_variable((count,), "ones", "float32", name="pace")
            # A weight that starts late has its own bias corrections and first step.
            self._counts = self.add_variable((count,), "zeros", "int32", name="counts")
            done = int(ops.convert_to_numpy(self.iterations))
            self._counts.assign(np.full((count,), done, "int32"))
        self._pace.assign(np.asarray(paces, "float32"))

    def _paces(self, variables: list) -> list[Pace] | None:
        """Returns the pace of each of `variables`, or None if none was ever set."""
        if self._pace is None:
            return None
        return own_paces(read(self._pace), read(self._counts), self._indices(variables))

    def _count(self) -> None:
        """Counts the updates that each weight has made."""
        if self._pace is not None:
            moves = ops.cast(read(self._pace) > 0, "int32")
            _backend.assign([self._counts], [read(self._counts) + moves])

    def _indices(self, variables: list) -> list[int]:
        return [self._get_variable_index(v) for v in variables]

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Takes weight decay off weights, before `build`; saved with the config.

        Args:
            var_list: Variables to exclude.
            var_names: Regular expressions; a weight is excluded if one occurs in its path.
        """
        if self.built:
            raise ValueError(
                "`exclude_from_weight_decay` must be called before the optimizer is built, that "
                "is before the first step."
            )
        exact = [_match.literal(_match.path(v)) for v in var_list or ()]
        within = [f"[^/]*(?:{name})[^/]*" for name in _check.patterns("var_names", var_names)]
        self._undecayed = (*exact, *within)

    def __deepcopy__(self, memo):
        pace, counts, variables = self._pace, self._counts, self._variables
        try:  # the twin is built without
            self._variables = [v for v in variables if v is not pace and v is not counts]
            twin = super().__deepcopy__(memo)
        finally:
            self._variables = variables
        twin._undecayed = self._undecayed
        if self.built:
            twin._policies = self._policies
        if pace is not None:
            twin.set_paces(ops.convert_to_numpy(pace))
            twin._counts.assign(ops.convert_to_numpy(counts))
        return twin

    def get_config(self):
        config = super().get_config()
        return config | ({"undecayed": list(self._undecayed)} if self._undecayed else {})

    @classmethod
    def from_config(cls, config, custom_objects=None):
        undecayed = tuple(config.get("undecayed", ()))
        config = {name: value for name, value in config.items() if name != "undecayed"}
        optimizer = super().from_config(config, custom_objects)
        optimizer._undecayed = undecayed
        return optimizer

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if self.built and self._policies.groups:
            store["groups"] = self._policies.table
        if self._pace is not None:
            store["paces"] = ops.convert_to_numpy(self._pace)

    def load_own_variables(self, store):
        if self.built and "groups" in store.keys():
            self._policies.restore(store["groups"])
            store = {name: store[name] for name in store.keys() if name != "groups"}
        paces = store["paces"] if self.built and "paces" in store.keys() else None
        if paces is not None and len(paces) == len(self._trainable_variables):
            self.set_paces(paces)
            store = {name: store[name] for name in store.keys() if name != "paces"}
        super().load_own_variables(store)
