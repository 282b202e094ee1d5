"""Writes the Python blocks of the README into files, for pyright to look at as a user's.

python scripts/readme_blocks.py build/readme
"""

import re
import shutil
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def main(directory):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    for number, block in enumerate(blocks, 1):
        (directory / f"block_{number}.py").write_text(block, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
