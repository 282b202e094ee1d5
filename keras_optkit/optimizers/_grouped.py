"""Settings of single weights, as an optimizer keeps and saves them."""

from keras_optkit import _check, _match
from keras_optkit.optimizers._policies import Policies
from keras_optkit.optimizers._step import Step


class Grouped(Step):
    """Keeps groups and exclusions through copying, saving and loading."""

    _undecayed: tuple[str, ...] = ()
    _policies: Policies

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
        twin = super().__deepcopy__(memo)
        twin._undecayed = self._undecayed
        if self.built:
            twin._policies = self._policies
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

    def load_own_variables(self, store):
        if self.built and "groups" in store.keys():
            self._policies.restore(store["groups"])
            store = {name: store[name] for name in store.keys() if name != "groups"}
        super().load_own_variables(store)
