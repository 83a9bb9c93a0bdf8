"""Build the pages and the API reference as HTML: `make docs` writes them to build/docs/."""

from __future__ import annotations

import re
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import markdown2
import pdoc

import opdcliff

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "prereg/*.md")
_EXTRAS = ["tables", "fenced-code-blocks", "header-ids", "code-friendly", "cuddled-lists"]
_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ max-width: 50rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 sans-serif }}
pre, code {{ background: #f4f4f4 }}
pre {{ padding: .6rem; overflow-x: auto }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
td, th {{ border: 1px solid #ccc; padding: .2rem .5rem; text-align: left }}
img {{ max-width: 100% }}
</style>
</head>
<body>
<nav>{links}</nav>
{body}
</body>
</html>
"""


def pages(root: Path = ROOT) -> list[Path]:
    """The Markdown files that become pages, README first."""
    return [path for pattern in PAGES for path in sorted(root.glob(pattern))]


def build(out: Path, root: Path = ROOT) -> None:
    """Write all pages and `api/` into the folder `out`."""
    for source in pages(root):
        target = out / source.relative_to(root).with_suffix(".html")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_page(source, root), encoding="utf-8")
    _copy_linked(out, root)
    _api(out / "api")


def _page(source: Path, root: Path) -> str:
    text = source.read_text(encoding="utf-8")
    up = "../" * len(source.relative_to(root).parts[:-1])
    links = [f'<a href="{up}api/index.html">API</a>']
    for path in pages(root):
        name = path.relative_to(root).with_suffix("")
        links.append(f'<a href="{up}{name}.html">{name}</a>')
    body = markdown2.markdown(text, extras=_EXTRAS)
    # Pages link to each other; what is no page keeps its name.
    known = {path.resolve() for path in pages(root)}

    def to_html(match: re.Match[str]) -> str:
        link, _, anchor = match[1].partition("#")
        if (source.parent / link).resolve() not in known:
            return match[0]
        suffix = f"#{anchor}" if anchor else ""
        return f'href="{link.removesuffix(".md")}.html{suffix}"'

    body = re.sub(r'href="([^":]+)"', to_html, body)
    title = text.splitlines()[0].lstrip("# ")
    return _FRAME.format(title=title, links=" | ".join(links), body=body)


def _copy_linked(out: Path, root: Path) -> None:
    """Copy the files that pages link to or show, e.g. figures; folders are left out."""
    for source in pages(root):
        for link in re.findall(r"\]\(([^)#:]+)", source.read_text(encoding="utf-8")):
            path = (source.parent / link).resolve()
            if path.is_file() and path not in pages(root) and path.is_relative_to(root):
                target = out / path.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


def _api(out: Path) -> None:
    """The reference of every module, from its docstrings."""
    to_markdown = pdoc.render.env.filters["to_markdown"]

    def escaped(context: Any, docstring: str) -> str:
        # <class> in a docstring is a placeholder; a browser would take it for a tag.
        return str(to_markdown(context, re.sub(r"`[^`]*`|<(?=[a-z])", _escape, docstring)))

    pdoc.render.env.filters["to_markdown"] = _like(to_markdown, escaped)
    pdoc.render.configure(docformat="google", show_source=False, footer_text="opd-cliff")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", module="pdoc")
            # Aliases that only a type checker can evaluate are printed as they are written.
            warnings.filterwarnings("ignore", "Error parsing type annotation", module="pdoc")
            # A module that pdoc has found from its package already.
            warnings.filterwarnings("ignore", "The module specification", module="pdoc")
            # Public names are loaded when first used, and pdoc looks for them in the module itself.
            vars(opdcliff).update({name: getattr(opdcliff, name) for name in opdcliff.__all__})
            # By name: a room's door offers what others use, and its modules are to be read as well.
            pdoc.pdoc(*_modules(), output_directory=out)
    finally:
        pdoc.render.env.filters["to_markdown"] = to_markdown


def _modules() -> list[str]:
    """Every module of the package by its dotted name."""
    package = ROOT / "src" / "opdcliff"
    files = [path.relative_to(package.parent) for path in sorted(package.rglob("*.py"))]
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files]
    return [name for name in names if not name.endswith("__main__")]


def _escape(match: re.Match[str]) -> str:
    return "&lt;" if match[0] == "<" else match[0]


def _like(original: Any, wrapper: Any) -> Any:
    """Marks a filter as taking the template's context, as the original one does."""
    wrapper.__dict__.update(original.__dict__)
    return wrapper


if __name__ == "__main__":
    build(Path(sys.argv[1]))
