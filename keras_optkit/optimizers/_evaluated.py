"""Optimizers that train at one point and are evaluated at another."""

from keras import ops

from keras_optkit import _backend
from keras_optkit.optimizers._slots import read
from keras_optkit.optimizers._step import Step


class Evaluated(Step):
    """Mixin: the model holds training weights during `fit`, evaluation weights afterwards.

    Which of them it holds is part of the optimizer's state, and each can be got from the other
    and the slots. So whatever happens in between, an exception, a checkpoint, another process,
    the next update finds its way back. That update's gradient was then taken at the evaluation
    weights; `callbacks.SwapAveragedWeights` goes back before it is taken.
    """

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._evaluating = self.add_variable((), dtype="int32", name="evaluating")

    def _exchanged(self) -> list:
        """Returns the variables that `_to_evaluation` and `_to_training` read or write."""
        raise NotImplementedError

    def _to_evaluation(self) -> None:
        """Makes the training weights in the model evaluation weights."""
        raise NotImplementedError

    def _to_training(self) -> None:
        """The reverse of `_to_evaluation`."""
        raise NotImplementedError

    def use_evaluation_weights(self) -> bool:
        """Puts the weights to evaluate, predict and save with into the model.

        For eager code, between batches; `fit` ends with it.

        Returns:
            Whether it did: not if they are there already, or are no others yet.
        """
        due = self.built and not self._holds_evaluation_weights() and self._has_average()
        if due:
            self._to_evaluation()
            self._evaluating.assign(1)
        return due

    def use_training_weights(self) -> None:
        """Puts the weights to train on into the model, the reverse of `use_evaluation_weights`."""
        if self.built and self._holds_evaluation_weights():
            self._to_training()
            self._evaluating.assign(0)

    def _finalize(self, var_list):
        super()._finalize(var_list)
        given = {id(v) for v in var_list}  # without those frozen since `build`
        if self.built and any(id(v) in given for v in self._trainable_variables):
            self.use_evaluation_weights()

    def _holds_evaluation_weights(self) -> bool:
        return bool(ops.convert_to_numpy(self._evaluating))

    def _has_average(self) -> bool:
        """Returns whether there are other weights to evaluate yet."""
        return self._has_moved()

    def go_back(self) -> None:
        """Does what `use_training_weights` does, in a compiled step."""

        def effect():
            self._to_training()
            _backend.assign([self._evaluating], [ops.zeros_like(read(self._evaluating))])

        evaluating = read(self._evaluating) > 0
        _backend.cond(evaluating, effect, [*self._exchanged(), self._evaluating])

    def _update(self, gradients, variables):
        self.go_back()
        super()._update(gradients, variables)
