"""A hook of MkDocs: what stands outside ``docs/`` joins the site, with links that fit there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PICTURES = "benchmarks/results"
PAGES = {
    "README.md": "index.md",
    "README.zh-CN.md": "zh-cn.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and the pictures that stand outside ``docs/``."""
    for path in (ROOT / PICTURES).glob("*.png"):
        files.append(File.generated(config, path.name, abs_src_path=str(path)))
    for source, target in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=re.sub(r"\[([^\]]*)\]\(([^)]*)\)", _link, text)))
    return files


def _link(found: re.Match[str]) -> str:
    """A link as the site has it; of a file that is no page only the text stays."""
    text, target = found[1], found[2].removeprefix("docs/")
    path = target.partition("#")[0]
    if target != found[2] or "://" in target or not path:
        return f"[{text}]({target})"
    return f"[{text}]({PAGES[path]})" if path in PAGES else text


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Correct the links from ``docs/`` to what stands outside it."""
    markdown = markdown.replace(f"](../{PICTURES}/", "](")
    return re.sub(r"\]\(\.\./(\w[\w.-]*)\)", lambda found: f"]({PAGES.get(found[1], found[1])})", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name functions as Sphinx does, ``:func:`x```; the site shows the name alone."""
    return re.sub(r":(?:attr|class|data|func|meth|mod):(<code)", r"\1", html)
