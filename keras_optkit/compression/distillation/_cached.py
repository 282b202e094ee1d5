"""Inputs that bring the teacher's outputs with them."""

from typing import Any

INPUTS, TEACHER = "inputs", "teacher"


def join(inputs, outputs, features: dict[str, Any]) -> dict[str, Any]:
    """Returns what `fit` takes for inputs."""
    known = {"outputs": outputs} | ({"features": features} if features else {})
    return {INPUTS: inputs, TEACHER: known}


def split(x) -> tuple[Any, tuple[Any, dict[str, Any]] | None]:
    """Returns the inputs, and the teacher's outputs and features or None."""
    if not isinstance(x, dict) or set(x) != {INPUTS, TEACHER}:
        return x, None
    known = x[TEACHER]
    return x[INPUTS], (known["outputs"], known.get("features", {}))
