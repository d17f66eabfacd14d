"""Hooks of mkdocs: pages of the site that live outside docs/, and the links between both.

README.md is the front page, so that no text is written twice. Links to files that are no page of
the site (a parameter file, a script) keep their text alone.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
}
"""Files of the repository beside docs/, and the pages that they become."""

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that live outside docs/."""
    for source, page in PAGES.items():
        text = rewritten((ROOT / source).read_text(encoding="utf-8"), source)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Mend the links that lead out of docs/."""
    if page.file.src_uri in PAGES.values():
        return markdown
    return rewritten(markdown, f"docs/{page.file.src_uri}")


def rewritten(text: str, source: str) -> str:
    """Return the Markdown of a file of the repository with links as the site has them."""
    parts = FENCED.split(text)
    parts[::2] = [LINK.sub(lambda link: _link(link, source), part) for part in parts[::2]]
    return "".join(parts)


def _link(match: re.Match[str], source: str) -> str:
    mark, text, target, anchor = match.groups()
    if "://" in target:
        return match[0]
    path = _normal(PurePosixPath(source).parent / target)
    page = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
    if page is not None:
        up = "../" * (source.removeprefix("docs/").count("/") if source.startswith("docs/") else 0)
        return f"{mark}[{text}]({up}{page}{anchor or ''})"
    if (ROOT / path).exists():
        return text
    return match[0]  # mkdocs names it


def _normal(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
