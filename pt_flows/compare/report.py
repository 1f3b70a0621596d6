"""One self-contained HTML file about runs: everything is inside, nothing is fetched."""

import base64
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from pt_flows.compare.curves import curves_figure
from pt_flows.compare.groups import Criterion, Group, comparable
from pt_flows.compare.runs import Run
from pt_flows.compare.sampling import sampling_figure
from pt_flows.compare.table import shown, table
from pt_flows.compare.verdicts import judged, said
from pt_flows.files import checked_target, replacing

MOST_PICTURES = 8
STYLE = """
:root { color-scheme: light dark; --line: #d0d0d0; --soft: #f4f4f4; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --soft: #222; } figure img { background: #fff; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; }
h2 { font-size: 1.25rem; margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; font-size: .8rem; }
code, p, li, h1, h2, h3 { overflow-wrap: anywhere; }
summary { cursor: pointer; margin: .5rem 0; } img { max-width: 100%; height: auto; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr)); gap: .8rem; }
figure { margin: 0; } figcaption { font-size: .8rem; opacity: .8; overflow-wrap: anywhere; }
"""


def report(runs: list[str], out: str = "report.html", metric: str | None = None) -> None:
    """Write one self-contained HTML file about runs: comparison, curves, pictures, passports, configurations.

    Args:
        runs: Run folders, folders above them, patterns, or W&B paths entity/project/run.
        out: The file to write, an .html.
        metric: The number that is compared; by default one that all runs have.
    """
    target = checked_target(out, (".html",))
    notes: list[str] = []
    groups, criterion = comparable(runs, metric, notes.append)
    for note in notes:
        print(f"note: {note}")
    with replacing(target) as partial:
        partial.write_text(page(groups, criterion, notes), encoding="utf-8")
    num = len({run.folder for group in groups for run in group.runs})
    print(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB), {num} runs; open it in a browser")


def page(groups: Sequence[Group], criterion: Criterion, notes: Sequence[str]) -> str:
    """The whole document."""
    return document(", ".join(group.name for group in groups), comparison(groups, criterion, notes))


def document(title: str, body: str) -> str:
    """An HTML document that fetches nothing."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f"{head}<title>{escape(title)}</title><style>{STYLE}</style>"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def comparison(groups: Sequence[Group], criterion: Criterion, notes: Sequence[str]) -> str:
    """The table, the verdicts, the curves, and a section for every run."""
    key, members = criterion.key, [(group.name, run) for group in groups for run in group.runs]
    runs = {run.folder: run for _, run in members}
    names = ", ".join(group.name for group in groups)
    figures = {f"{key} against iterations, data seen, minutes and samples evaluated": curves_figure(groups, criterion)}
    if (against_sampling := sampling_figure(groups, criterion)) is not None:
        figures[f"{key} against evaluations per sample, with 95 % intervals"] = against_sampling
    parts = [
        f"<h1>{escape(names)}</h1>",
        f"<p>{len(runs)} run{'s' * (len(runs) > 1)}, compared by {escape(str(criterion))}.</p>",
        html_table(shown(table(groups, criterion, None), key)),
        html_list([*said(groups, criterion, judged(groups, criterion, 0.05)), *notes]),
        *(picture(png(figure), caption) for caption, figure in figures.items()),
        *(section([name for name, other in members if other.folder == folder], run) for folder, run in runs.items()),
    ]
    return "\n".join(parts)


def section(names: Sequence[str], run: Run) -> str:
    """The section about one run.

    Args:
        names: The groups of the run.
        run: The run.
    """
    title = f"{', '.join(names)}, seed {run.seed}"
    parts = [f"<h2>{escape(title)}</h2>", f"<p><code>{escape(str(run.folder))}</code></p>"]
    if run.failure is not None:
        parts.append(f"<p>Failed: {escape(run.failure)}</p>")
    parts.append('<div class="pictures">' + "".join(map(file_picture, some_pictures(run.folder))) + "</div>")
    for passport, numbers in run.records:
        drawn = f"{passport.weights} weights, {passport.sampler}, sampling seed {passport.sampling_seed}"
        title = f"iteration {passport.iteration}, {drawn}"
        rows = [{"number": key, "value": f"{value:.5g}"} for key, value in numbers.items()]
        fields = yaml.safe_dump(vars(passport), sort_keys=False)
        parts.append(f"<h3>{escape(title)}</h3>{html_table(rows)}" + folded("passport", fields))
    parts.append(folded("configuration", yaml.safe_dump(run.config, sort_keys=False)))
    return "\n".join(parts)


def some_pictures(folder: Path) -> list[Path]:
    """At most eight pictures of each kind, from the first to the last iteration, and those of the whole run."""
    kinds: dict[str, list[Path]] = {}
    for file in sorted((folder / "pictures").glob("*.png")):
        kinds.setdefault(re.sub(r"\d+", "", file.stem), []).append(file)
    chosen = []
    for files in kinds.values():
        num = min(MOST_PICTURES, len(files))
        chosen += [files[round(i * (len(files) - 1) / max(num - 1, 1))] for i in range(num)]
    return chosen


def file_picture(path: Path) -> str:
    """A picture of the run folder, if it can be read."""
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError) as error:
        return f"<p>{escape(path.name)}: cannot be read ({escape(str(error))})</p>"
    return picture(path.read_bytes(), path.stem)


def png(figure: Any) -> bytes:
    """A figure of matplotlib as an image."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    return drawn.getvalue()


def picture(image: bytes, caption: str) -> str:
    """An image with its bytes inside."""
    source = "data:image/png;base64," + base64.b64encode(image).decode()
    return f'<figure><img alt="{escape(caption)}" src="{source}"><figcaption>{escape(caption)}</figcaption></figure>'


def html_table(rows: Sequence[dict[str, str]]) -> str:
    """Rows of equal columns."""
    head = "".join(f"<th>{escape(column)}</th>" for column in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row.values()) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def html_list(lines: Sequence[str]) -> str:
    """Lines as a list."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def folded(title: str, text: str) -> str:
    """Long text that opens on a click."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def escape(text: str) -> str:
    """Text as HTML."""
    return html.escape(text, quote=True)
