"""`python -m keras_optkit`: the demo. `python -m keras_optkit info`: what is installed."""

import argparse
from pathlib import Path

from keras_optkit import _demo
from keras_optkit._demo.info import info


def main(arguments: list[str] | None = None) -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m keras_optkit",
        description="Trains on real data, saves, resumes and exports, and reports in numbers.",
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=("demo", "info"),
        default="demo",
        help="demo (the default), or info: versions, backend, devices, extras",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="directory for plots and numbers"
    )
    parser.add_argument("--quick", action="store_true", help="one seed and few epochs")
    options = parser.parse_args(arguments)
    if options.command == "info":
        print(info())
    else:
        _demo.run(options.out, options.quick)


if __name__ == "__main__":
    main()
