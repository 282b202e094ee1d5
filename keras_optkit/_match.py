"""Patterns over weight paths."""

import re
import warnings
from collections.abc import Sequence


def path(variable) -> str:
    """Returns the path of a Keras variable, or the name of a framework's own."""
    return getattr(variable, "path", None) or str(variable.name)


def matches(patterns: Sequence[str], variable_path: str) -> bool:
    """Tells whether a pattern matches whole segments of `variable_path`.

    `"head"` matches `head/kernel` and `model/head/kernel`, not `forehead/kernel`; `"dense.*"`
    matches `dense_1/bias`; `"block1/conv"` matches across the slash. So a pattern goes on
    matching when a model is reloaded and its own name drops off the front of the paths.
    """
    return any(re.search(rf"(?:^|/)(?:{p})(?:/|$)", variable_path) for p in patterns)


def warn_unmatched(owner: str, patterns: Sequence[str], paths: Sequence[str]) -> None:
    """Warns of each pattern that matches no path, and lists the paths there are."""
    for pattern in patterns:
        if not any(matches([pattern], p) for p in paths):
            shown = ", ".join(paths[:20]) + (", ..." if len(paths) > 20 else "")
            warnings.warn(
                f"{owner}: the pattern {pattern!r} matches none of the weights, so it does "
                "nothing. A pattern is a regular expression for whole segments of a path: "
                f'"dense" does not match "dense_1/kernel", "dense.*" does. The paths are: {shown}',
                stacklevel=3,
            )


def literal(variable_path: str, model_name: str | None = None) -> str:
    r"""Returns a pattern for this path and no other, with or without the model's name in front.

    Keras puts a model's name in front of the paths, or drops it, when it builds one anew. Where
    `model_name` is not given, the first of three or more segments may be one.
    """
    head, _, tail = variable_path.partition("/")
    if model_name is not None:
        head, tail = model_name, variable_path.removeprefix(f"{model_name}/")
    elif "/" not in tail:
        head, tail = "", variable_path
    return rf"\A(?:{_escape(head)}/)?{_escape(tail)}\Z" if head else rf"\A{_escape(tail)}\Z"


def _escape(text: str) -> str:
    """Returns a pattern for `text`, more readable than that of `re.escape`."""
    return "".join(rf"\{c}" if c in r"\.^$*+?{}[]|()" else c for c in text)
