"""Build the documentation site: `python tools/website.py [FOLDER]`, by default into build/site.

The pages of a temporary folder lie like those of the repository, so links hold as they are: README, docs and records as
they stand, and the generated pages of tools/pages.py. The build is strict: a link, an anchor or a page of `nav` that is
missing stops it. Nothing is fetched, neither by the build nor by a reader's browser.
"""

import base64
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pages
import yaml

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("docs", "benchmarks", "configs", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE",
          "CITATION.cff", "pt_flows/methods")  # fmt: skip
"""Places whose files the pages show or link to."""


def assemble(root: Path, target: Path) -> None:
    """Write the sources of the site.

    Args:
        root: The repository.
        target: An empty folder.
    """
    for place in COPIED:
        if (root / place).is_dir():
            shutil.copytree(root / place, target / place, ignore=shutil.ignore_patterns("__pycache__", "*.ipynb"))
        else:
            shutil.copy(root / place, target / place)
    for notebook in sorted((root / "docs").glob("*.ipynb")):
        shutil.copy(notebook, target / "docs")
        (target / "docs" / f"{notebook.stem}.md").write_text(as_page(notebook), encoding="utf-8")
    for name, text in pages.generated().items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(text, encoding="utf-8")


def as_page(notebook: Path) -> str:
    """Return a notebook as Markdown with its recorded texts and pictures."""
    parts = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
        parts += [shown for output in cell.get("outputs", []) for shown in output_of(output)]
    parts.insert(1, f"This page is a notebook, to be run as it is: [{notebook.name}]({notebook.name}).")
    return "\n\n".join(parts) + "\n"


def output_of(output: dict[str, Any]) -> Iterator[str]:
    """Yield the text and the picture of a cell's output."""
    data = output.get("data", {})
    if picture := data.get("image/png"):
        png = base64.b64encode(base64.b64decode("".join(picture))).decode()
        yield f'<img alt="output of the cell above" src="data:image/png;base64,{png}">'
    elif text := output.get("text") or data.get("text/plain"):
        yield f"```text\n{''.join(text).rstrip()}\n```"


def navigation(nav: list[Any], sources: Path) -> list[Any]:
    """Return the navigation with the pages of its folders.

    Args:
        nav: Entries of mkdocs.yml. A path without a suffix is a folder: all of its pages that no entry names.
        sources: Folder of the sources.
    """
    named = set(re.findall(r"[\w/.-]+\.md", json.dumps(nav)))

    def expanded(entry: Any) -> Any:
        if isinstance(entry, list):
            return [part for item in entry if (part := expanded(item))]
        if isinstance(entry, dict):
            parts = {title: expanded(item) for title, item in entry.items()}
            return {title: part for title, part in parts.items() if part}
        if entry.endswith(".md"):
            return entry
        found = sorted((sources / entry).glob("*.md"), key=lambda path: (path.stem != "index", path.name.lower()))
        return [path for page in found if (path := page.relative_to(sources).as_posix()) not in named]

    return expanded(nav)


def build(target: Path, root: Path = ROOT) -> None:
    """Build the site.

    Args:
        target: The folder of the site, which is emptied.
        root: The repository.

    Raises:
        mkdocs.exceptions.Abort: A link or a page is missing.
    """
    os.environ["NO_MKDOCS_2_WARNING"] = "1"  # the theme would advertise
    from mkdocs.commands.build import build as build_site
    from mkdocs.config import load_config

    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder, "sources")
        sources.mkdir()
        assemble(root, sources)
        settings = yaml.safe_load((root / "mkdocs.yml").read_text(encoding="utf-8"))
        settings |= {"docs_dir": str(sources), "nav": navigation(settings["nav"], sources)}
        settings["plugins"][-1]["mkdocstrings"]["handlers"]["python"]["paths"] = [str(root)]
        config = Path(folder, "mkdocs.yml")
        config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        loaded = load_config(str(config), site_dir=str(target.absolute()), strict=True)
        loaded.plugins.on_startup(command="build", dirty=False)
        try:
            build_site(loaded)
        finally:
            loaded.plugins.on_shutdown()


def main(words: list[str]) -> None:
    """Build the site into the folder of the command line."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    target = Path(words[0] if words else "build/site")
    build(target)
    print(f"wrote {target}; open {target / 'index.html'} in a browser")


if __name__ == "__main__":
    main(sys.argv[1:])
