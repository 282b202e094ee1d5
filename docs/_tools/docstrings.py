"""What Griffe needs to know about the docstrings of this package."""

import griffe


class Examples(griffe.Extension):
    """Reads `Example:`, as Griffe reads `Examples:`: code after `>>>` is shown as code."""

    def on_instance(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
