"""Pruning without training."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_optkit import _backend, _check, _match
from keras_optkit.compression._models import keras_model
from keras_optkit.compression.pruning._method import Candidates, Method
from keras_optkit.compression.pruning._methods import as_method
from keras_optkit.compression.pruning._schedule import share
from keras_optkit.compression.pruning._selection import prunable, refuse_merged
from keras_optkit.compression.pruning.sparsity_report import SparsityReport, sparsity_report
from keras_optkit.optimizers._slots import read, working_dtype


def prune_once(
    model: keras.Model,
    sparsity: float = 0.5,
    method: Method | str = "magnitude",
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
) -> SparsityReport:
    """Prunes the weights of a model at once, as they are.

    Little sparsity is harmless that way; for more, train with `Pruned`, or train on afterwards
    with its method `Frozen`.

    Args:
        model: A built model, whose weights are changed.
        sparsity: Share of zeros to have in what is pruned, in [0, 1).
        method: A method that needs no training, or its name: `Magnitude`, `NofM`, `Block` or
            `Random`.
        include: As for `Pruned`.
        exclude: As for `Pruned`.

    Returns:
        The `sparsity_report` of the pruned model.

    Raises:
        TypeError: If `model` is not a Keras 3 model.
        ValueError: If it is not built, has nothing to prune, has layers that are quantized or
            have LoRA, or if the method needs training.

    Example:
        >>> report = keras_optkit.compression.prune_once(model, 0.3)
    """
    keras_model(model, "prune_once")
    sparsity, method = share("sparsity", sparsity), as_method(method)
    if method.has_scores or method.trains_sparse:
        raise ValueError(
            f"`method` must be one that needs no training; {type(method).__name__} goes by "
            "gradients or by earlier masks. Compile with Pruned and train, or use Magnitude. "
            f"{_check.received('method', method)}"
        )
    refuse_merged(model, "prune_once", include, exclude)
    variables = list(model.trainable_variables)
    include, exclude = _check.patterns("include", include), _check.patterns("exclude", exclude)
    members = [variables[i] for i in prunable(variables, include, exclude, "prune_once")]
    method.check([_match.path(v) for v in members], [tuple(v.shape) for v in members])
    candidates = Candidates(
        weights=[ops.copy(read(v, working_dtype(v))) for v in members],
        gradients=[],
        scores=[],
        masks=[],
        sparsity=ops.full((), sparsity, "float32"),
        progress=ops.zeros((), "float32"),
        step=ops.convert_to_tensor(1),
    )
    _backend.keep(members, method.select(candidates))
    return sparsity_report(model)
