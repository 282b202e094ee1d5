"""What MkDocs runs while it builds: pages made from the sources, and tables from results.

The pages of the API are made from what the packages export, so that a new name is there by
itself. In any page, `<!-- table: NAME -->` becomes the table of that name of `tables.py`, and
`<!-- pictures: PACKAGE -->` the pictures that `pictures.py` drew of that package's classes.
"""

import ast
import json
import re
import sys
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))

import plots
import tables

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "optimizers",
    "schedules",
    "transforms",
    "callbacks",
    "diagnostics",
    "continual",
    "compression",
    "testing",
)
BENCHMARKS = {"README.md": "benchmarks.md"}  # others are named after their files


def source(module: str) -> ast.Module:
    """Returns the parsed file of a module or package."""
    path = ROOT / module.replace(".", "/")
    return ast.parse(
        (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    )


def summary(thing) -> str:
    """Returns the first line of the docstring of a module, a class or a function."""
    return (ast.get_docstring(thing) or "").partition("\n")[0]


def exported(package: str) -> dict[str, tuple[str, str, str]]:
    """Returns what a package exports, by name: its kind, its summary, and where it is defined.

    The kinds are "class", "function", "module" and "alias", which has the name it stands for.
    """
    found = {}
    for node in source(package).body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("keras_optkit"):
            for name in [a.name for a in node.names if a.asname == a.name]:
                if (ROOT / node.module.replace(".", "/") / name).is_dir():
                    found[name] = ("module", summary(source(f"{node.module}.{name}")), "")
                    continue
                body = source(node.module).body
                for thing in (n for n in body if getattr(n, "name", None) == name):
                    kind = "class" if isinstance(thing, ast.ClassDef) else "function"
                    found[name] = (kind, summary(thing), node.module)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            found[node.name] = ("function", summary(node), package)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            found[node.targets[0].id] = ("alias", "", node.value.id)
    return found


def reference(package: str, level: int = 1) -> str:
    """Returns the page of a package: its names in a table, then each in full."""
    path = f"keras_optkit.{package}"
    lines = [f"{'#' * level} {package}", "", summary(source(path)), "", "| | |", "|---|---|"]
    sections, modules = [], []
    for name, (kind, line, where) in exported(path).items():
        if kind == "module":
            inner = f"{package}.{name}"
            lines.append(f"| [`{name}`](#{inner.replace('.', '')}) | {line} |")
            modules += ["", reference(inner, level + 1)]
        elif kind == "alias":
            lines.append(f"| `{name}` | [`{where}`](#{path}.{where}), by another name |")
        else:
            lines.append(f"| [`{name}`](#{path}.{name}) | {line} |")
            # A module of the same name hides a function from those who only read the source.
            inside = ROOT / path.replace(".", "/") / name
            hidden = inside.is_dir() or inside.with_suffix(".py").exists()
            sections += [
                f'\n<a id="{path}.{name}"></a>\n' if hidden else "",
                f"::: {where}.{name}" if hidden else f"::: {path}.{name}",
                "    options:",
                f"      heading_level: {level + 1}",
                "",
                picture(package, name, depth=1),
            ]
    return "\n".join(lines + sections + modules)


def picture(package: str, name: str, depth: int) -> str:
    """Returns the picture of a class in Markdown, if there is one, for a page so deep down."""
    file = ROOT / "docs/assets/pictures" / package / f"{name}.svg"
    if not file.exists():
        return ""
    what = "learning rate by step" if package == "schedules" else "path on two functions"
    up = "../" * depth
    return f"![{name}: {what}]({up}assets/pictures/{package}/{name}.svg){{ loading=lazy }}"


def gallery(package: str, depth: int) -> str:
    """Returns the pictures of a package's classes, side by side, each linked to its reference."""
    up = "../" * depth
    cards = [
        f"<figure markdown>\n{shown}\n<figcaption markdown>[`{name}`]"
        f"({up}api/{package}.md#keras_optkit.{package}.{name})</figcaption>\n</figure>"
        for name in exported(f"keras_optkit.{package}")
        if (shown := picture(package, name, depth))
    ]
    return '<div class="gallery" markdown>\n' + "\n".join(cards) + "\n</div>"


def packages() -> str:
    """Returns a table of the packages."""
    rows = [f"| [`{p}`]({p}.md) | {summary(source(f'keras_optkit.{p}'))} |" for p in PACKAGES]
    return "\n".join(["| | |", "|---|---|", *rows])


def examples() -> str:
    """Returns the page of the scripts and notebooks in `examples`, each with its source."""
    lines = ["# Examples", "", "Each is a file of its own, to run and to change.", ""]
    for path in sorted((ROOT / "examples").glob("*.py")):
        text = path.read_text()
        lines += ["", f'??? example "`{path.name}`: {summary(ast.parse(text))}"', ""]
        lines += [f"    {line}".rstrip() for line in ["```py", *text.splitlines(), "```"]]
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        title = "".join(cells[0]["source"]).splitlines()[0].lstrip("# ")
        lines += ["", f"- [{path.name}](examples/{path.name}): {title}, a notebook"]
    return "\n".join(lines)


def copied() -> dict[str, Path]:
    """Returns the pages that are files of the repository."""
    found = {"changelog.md": ROOT / "CHANGELOG.md"}
    for path in sorted((ROOT / "benchmarks").glob("*.md")):
        found[BENCHMARKS.get(path.name, path.name.lower())] = path
    return found


def relinked(path: Path) -> tuple[str, dict[str, Path]]:
    """Returns a file of the repository as a page, and the files that it shows."""
    pages = {file: page for page, file in copied().items()}
    shown = {}

    def link(match):
        text, target, anchor = match.groups("")
        file = (path.parent / target).resolve()
        if file in pages:
            return f"[{text}]({pages[file]}{anchor})"
        if file.suffix in (".png", ".svg") and file.exists():
            shown[f"assets/{file.name}"] = file
            return f"[{text}](assets/{file.name})"
        return text  # a file that is not part of the site

    links = re.compile(r"\[([^\]\n]*)\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)")
    return links.sub(link, path.read_text()), shown


def on_config(config):
    """Puts pages of benchmarks that `mkdocs.yml` does not know at the end of their section."""
    [section] = [part["Benchmarks"] for part in config.nav if "Benchmarks" in part]
    known = {page for part in section for page in part.values()}
    for page, path in copied().items():
        if path.parent.name == "benchmarks" and page not in known:
            section.append({path.read_text().partition("\n")[0].lstrip("# "): page})


def on_files(files, config):
    """Adds the pages that are made here, and what they show."""
    pages = {f"api/{package}.md": reference(package) for package in PACKAGES}
    pages["examples.md"] = examples()
    pages["assets/update_cost.svg"] = plots.update_cost()
    shown = {f"examples/{p.name}": p for p in (ROOT / "examples").glob("*.ipynb")}
    for page, path in copied().items():
        pages[page], pictures = relinked(path)
        shown |= pictures
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    for name, path in shown.items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Puts in tables and pictures."""
    depth = page.file.src_uri.count("/")

    known = tables.TABLES | {"packages": packages}

    def table(match):
        if match[1] not in known:
            raise PluginError(f"{page.file.src_uri}: there is no table {match[1]!r}")
        return known[match[1]]()

    markdown = re.sub(r"<!-- table: (.+?) -->", table, markdown)
    return re.sub(r"<!-- pictures: (\w+) -->", lambda m: gallery(m[1], depth), markdown)
