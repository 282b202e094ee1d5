"""What a guard has found, and done."""

import dataclasses
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Incident:
    """A loss or weights that were not finite.

    Args:
        step: Number of updates done when it was found.
        epoch: Number of the epoch, counted from 0.
        found: `"loss"`, `"weights"`, which are weights and optimizer state, or `"loss+weights"`.
        action: What was done: `"rollback"`, `"skip"` or `"stop"`.
        back_to: Number of updates done when the copy was taken that was gone back to.
        learning_rate: The learning rate from there on; of several the first; None if a schedule
            decides or nothing was restored.
    """

    step: int
    epoch: int
    found: str
    action: Literal["rollback", "skip", "stop"]
    back_to: int
    learning_rate: float | None

    def as_dict(self) -> dict[str, Any]:
        """Returns the incident as plain data."""
        return dataclasses.asdict(self)


def summary(incident: Incident) -> str:
    """Returns the incident in words."""
    what = incident.found.replace("+", " and ")
    text = f"{what} not finite in epoch {incident.epoch + 1}, after {incident.step} updates; "
    if incident.action == "skip":
        return text + "the optimizer has left out such updates"
    text += f"back to the weights after {incident.back_to}"
    if incident.action == "rollback" and incident.learning_rate is not None:
        text += f", learning rate {incident.learning_rate:.4g}"
    return text
