"""The documentation site builds strictly, opens from disk, and its notebook runs."""

import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from problems import ROOT

pytest.importorskip("mkdocs", reason="the site needs pt-flows[docs]")


class Page(HTMLParser):
    """The links, the anchors, and the files that a browser loads, of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("script", "img", "iframe", "source") and "src" in given:
            self.loaded.append(given["src"])
        elif tag == "link" and given.get("rel") != "canonical":
            self.loaded.append(given.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import website

    folder = tmp_path_factory.mktemp("site")
    website.build(folder)
    return folder


@pytest.mark.slow
def test_links_resolve_and_nothing_is_fetched(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    broken = [
        f"{path.relative_to(site)}: {link}" for path, link in local_links(pages) if not reached(path, link, pages)
    ]
    assert not broken
    assert not [src for page in pages.values() for src in page.loaded if urlsplit(src).scheme in ("http", "https")]


def local_links(pages: dict[Path, Page]) -> Iterator[tuple[Path, str]]:
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            if not urlsplit(link).scheme:
                yield path, link


def reached(path: Path, link: str, pages: dict[Path, Page]) -> bool:
    """Whether a relative link leads to a file, and to an anchor of it if it names one."""
    parts = urlsplit(link)
    target = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
    target = target / "index.html" if target.is_dir() else target
    if not parts.fragment or target not in pages:
        return target.is_file()
    return unquote(parts.fragment) in pages[target].anchors


@pytest.mark.slow
def test_every_page_is_in_the_navigation(site: Path) -> None:
    front = Page(site / "index.html")
    guides = {f"docs/{page.stem}.html" for page in (ROOT / "docs").glob("*.md")}
    methods = {path.relative_to(site).as_posix() for path in (site / "methods").glob("*.html")}
    assert len(methods) >= 12
    assert guides | methods | {"docs/start.html", "gallery.html", "reference/metrics.html"} <= {*front.links}


@pytest.mark.slow
def test_pages_hold_the_sources(site: Path) -> None:
    text = (site / "methods/W1FE.html").read_text(encoding="utf-8")
    assert "one Euler step of the particles" in text
    assert "Departures" in text
    assert "toy2d/w1_fe" in text
    assert "benchmarks/ring8.html" in text
    keys = re.sub(r"<.*?>", " ", (site / "reference/keys/methods.html").read_text(encoding="utf-8"))
    assert re.search(r"persistence\s+Count \| Schedule\s+5\s+K, optimizer steps", keys)


def test_navigation_takes_the_rest_of_a_folder(tmp_path: Path) -> None:
    from website import navigation

    (tmp_path / "docs").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"docs/{name}.md").write_text(f"# {name}\n")
    nav = [{"First": ["docs/b.md"]}, {"Rest": "docs"}, {"Empty": "none"}]
    assert navigation(nav, tmp_path) == [{"First": ["docs/b.md"]}, {"Rest": ["docs/a.md"]}]


@pytest.mark.slow
def test_notebook_runs(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "docs/start.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "start/curves.png").is_file()
    shown = "".join(str(output.get("text", "")) for cell in notebook.cells for output in cell.get("outputs", []))
    assert "W1FE" in shown
    assert "WGANGP" in shown
