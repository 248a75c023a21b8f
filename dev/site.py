"""A hook of MkDocs: the pages outside docs/, notebooks as pages, links into the source tree,
llms.txt, and the Markdown source of every page beside it, for agents."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "docs" / "notebooks"
OUTSIDE = {  # of docs/: their place in the site
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "vulnerabilities.md",
    "CONTRIBUTING.md": "contributing.md",
}
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)((?:#[^)\s]*)?\))")
SUMMARY = (
    "Chooses, for every query, which language model should answer it, and proves that it pays."
)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that lie outside docs/, and those that are notebooks."""
    notebooks = (f"notebooks/{path.stem}.md" for path in NOTEBOOKS.glob("*.ipynb"))
    for page in (*OUTSIDE.values(), *notebooks):
        files.append(File.generated(config, page, content=_text(page)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Leads links out of docs/ to the page in the site; other files are named, not linked."""
    place = page.file.src_uri
    outside = {page: name for name, page in OUTSIDE.items()}
    source = ROOT / outside.get(place, f"docs/{place}")

    def lead(match: re.Match[str]) -> str:
        target = (source.parent / match[2]).resolve()
        name = target.relative_to(ROOT).as_posix()
        if target.suffix not in (".md", ".ipynb", ".svg", ".png") or not target.exists():
            return f"](#{_END}"
        inside = OUTSIDE.get(name, name.removeprefix("docs/").replace(".ipynb", ".md"))
        up = "../" * place.count("/")
        return f"{match[1]}{up}{inside}{match[3]}"

    linked = LINK.sub(lead, markdown)
    return re.sub(rf"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(#{_END}", r"\1", linked)


_END = "\0"  # marks a link that leads to no page


def on_post_build(config: Any) -> None:
    """Writes llms.txt (https://llmstxt.org) and the source of every page."""
    site = Path(config["site_dir"])
    lines = ["# Routewright", "", f"> {SUMMARY}", ""]
    for entry in config["nav"]:
        for title, pages in entry.items():
            pages = [pages] if isinstance(pages, str) else pages
            lines += [f"## {title}", ""]
            for page in pages:
                place = page if isinstance(page, str) else next(iter(page.values()))
                text = _text(place)
                heading = text.partition("\n")[0].removeprefix("# ")
                lines.append(f"- [{heading}]({place})")
                (site / place).parent.mkdir(parents=True, exist_ok=True)
                (site / place).write_text(text, encoding="utf-8")
            lines.append("")
    (site / "llms.txt").write_text("\n".join(lines), encoding="utf-8")


def _text(place: str) -> str:
    """The Markdown of a page of the site."""
    outside = {page: name for name, page in OUTSIDE.items()}
    source = ROOT / outside.get(place, f"docs/{place}")
    notebook = source.with_suffix(".ipynb")
    if notebook.exists():
        return "\n\n".join(_parts(json.loads(notebook.read_text(encoding="utf-8"))["cells"])) + "\n"
    return source.read_text(encoding="utf-8")


def _parts(cells: list[dict[str, Any]]) -> Iterator[str]:
    """The cells of a notebook and what they gave, as Markdown."""
    for cell in cells:
        source = "".join(cell["source"])
        yield source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
        for output in cell.get("outputs", ()):
            if "text" in output:
                yield f"```text\n{''.join(output['text'])}```"
            elif svg := output["data"].get("image/svg+xml"):
                yield f"<div>{''.join(svg)}</div>"
