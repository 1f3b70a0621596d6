"""The generated pages of the site: methods, gallery, configuration keys, metrics, and the reference of the API.

Everything comes from docstrings, signatures, recipes and records, so no page has a second copy to keep in step.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from sources import arguments, doc_of, exported, kind, source, summary

import pt_flows
from pt_flows import bounds
from pt_flows.cli.main import FUNCTIONS
from pt_flows.compare.table import markdown
from pt_flows.studies.claims import plain, read_marked, row_of

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS, DOCS, CONFIGS = ROOT / "benchmarks", ROOT / "docs", ROOT / "configs"
METRIC_COST = "metric_cost_cpu_*.md"
"""The record of the time that each metric takes."""
SECTIONS = {
    "evaluation": "callbacks.Evaluate",
    "pictures": "callbacks.Pictures",
    "checkpoints": "callbacks.Checkpoints",
    "run": "runs.options.RunOptions",
}
"""Sections of every configuration and their classes."""
PLAYERS = [f"training.players.{name}" for name in ("Generator", "Critic", "Energy", "Encoder")]
MODULES = ("contracts", "bounds", "errors", "testing.methods", "testing.networks", "testing.samples")
"""Modules that the reference has as a whole, beside the mathematics."""


def generated() -> dict[str, str]:
    """Return all generated pages by their path."""
    found = {f"methods/{method.name}.md": method_page(method) for method in exported("methods")}
    found |= {"gallery.md": gallery(), "reference/metrics.md": metrics_page()}
    return found | key_pages() | api_pages()


def head_of(page: Path) -> str:
    """Return the heading of a page."""
    return page.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def linked(text: str) -> str:
    """Return prose whose arXiv numbers are links; indented lines stay."""
    link = lambda found: found[1] or f"[arXiv:{found[2]}](https://arxiv.org/abs/{found[2]})"
    return re.sub(r"(?m)(^ {4}.*$)|arXiv:(\d{4}\.\d{5})", link, text)


def records() -> list[Path]:
    """Return the pages of records."""
    return sorted(BENCHMARKS.glob("*.md"))


# -------------------------------------------------------------------------------------------------------------- methods


def method_page(method: Any) -> str:
    """Return the page of a method: the docstring of its module, recipes, evidence, and its arguments."""
    doc = doc_of(method.module)
    opening, _, rest = doc.partition("\n\n")
    head, _, summary = " ".join(opening.split()).partition(": ")
    body, _, departures = rest.partition("\n\nDepartures: ")
    names = {method.name, *([head] if len(head) < 20 else []), *map(short, recipes := recipes_of(method.name))}
    parts = [
        f"---\ntitle: {method.name}\n---\n\n# {head}\n\n{summary[:1].upper()}{summary[1:]}",
        linked(body),
        f"## Departures\n\n{linked(departures[:1].upper() + departures[1:])}" if departures else "",
        "## Recipes\n\n" + "\n".join(f"    pt-flows fit --config {short(recipe)}" for recipe in recipes),
        "## Evidence\n\n" + (evidence(doc) or "No study has judged a claim of this paper yet."),
        listed("Records that name it", mentions(records(), names)),
        listed("Guides that name it", mentions(sorted(DOCS.glob("*.md")), {method.name})),
        f"## Arguments\n\n::: {method.path}\n    options: {{heading_level: 3}}",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def recipes_of(name: str) -> list[Path]:
    """Return the recipes of a method."""
    found = []
    for path in sorted(CONFIGS.rglob("*.yaml")):
        model = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("model")
        if isinstance(model, dict) and str(model.get("class_path")).rpartition(".")[2] == name:
            found.append(path)
    return found


def short(recipe: Path) -> str:
    """Return the name of a recipe on the command line."""
    return f"{recipe.parent.name}/{recipe.stem}"


def mentions(found: list[Path], names: set[str]) -> list[Path]:
    """Return the pages that contain one of some names."""
    pattern = re.compile("|".join(rf"(?<![\w-]){re.escape(name)}(?![\w-])" for name in names))
    return [page for page in found if pattern.search(page.read_text(encoding="utf-8"))]


def listed(title: str, found: list[Path]) -> str:
    """Return a list of links to pages; nothing if there are none."""
    links = [f"- [{head_of(page)}](../{page.relative_to(ROOT).as_posix()})" for page in found]
    return "\n".join([f"{title}:\n", *links]) if links else ""


def evidence(doc: str) -> str:
    """Return the judged claims of a method's paper, which is the first that its module cites."""
    paper = re.search(r"arXiv:\d{4}\.\d{5}", doc)
    rows = []
    for page in records() if paper else ():
        record = read_marked(page) or {"claims": []}
        claims = [claim for claim in record["claims"] if paper and paper[0] in claim["paper"]]
        rows += [row_of(claim, record, Path("../benchmarks", page.name)) for claim in claims]
    return markdown([{name: row[name] for name in row if name != "paper"} for row in rows]) if rows else ""


# -------------------------------------------------------------------------------------------------------------- gallery


def gallery() -> str:
    """Return the pictures of all records, each with its command and the findings."""
    parts = ["# Gallery\n\nEvery picture is from a record, which has the settings, the numbers and the command."]
    for page in records():
        text = page.read_text(encoding="utf-8")
        if not (pictures := re.findall(r"^!\[(.*?)\]\((pictures/.*?)\)$", text, re.M)):
            continue
        command = re.match(r"# .*\n\n((?: {4}.*\n)+)", text)
        claims = (read_marked(page) or {"claims": []})["claims"]
        parts += [
            f"## {head_of(page)}",
            f"[The record](benchmarks/{page.name})",
            command[1].rstrip() if command else "",
            "\n".join(f"- {plain(claim['text'])} **{claim['finding'].capitalize()}**" for claim in claims),
            f'<div class="gallery">{"".join(figure(name, path) for name, path in pictures)}</div>',
        ]
    return "\n\n".join(filter(None, parts)) + "\n"


def figure(name: str, path: str) -> str:
    """Return a picture that opens in full size."""
    image = f'<img src="benchmarks/{path}" alt="{name}" loading="lazy">'
    return f'<figure><a href="benchmarks/{path}">{image}</a><figcaption>{name}</figcaption></figure>'


# ----------------------------------------------------------------------------------------------------------------- keys


def key_pages() -> dict[str, str]:
    """Return the tables of all configuration keys."""
    named = lambda items: [(item.name, item) for item in items]
    groups: dict[str, tuple[str, list[tuple[str, Any]]]] = {
        "sections": ("Sections of every run", [(key, source(path)) for key, path in SECTIONS.items()]),
        "methods": ("Methods, under model", named(exported("methods"))),
        "players": ("Players and schedules", named(map(source, [*PLAYERS, "training.schedules.Schedule"]))),
        "networks": ("Networks", named(exported("nets"))),
        "data": ("Data, under data", named(exported("data"))),
        "metrics": ("Metrics and feature networks", named(exported("metrics"))),
        "samplers": ("Samplers", named(item for item in exported("samplers") if item.is_class)),
        "callbacks": ("Callbacks, under trainer.callbacks", named(exported("callbacks"))),
        "commands": ("Options of commands", [(f"pt-flows {name}", command(at)) for name, at in FUNCTIONS.items()]),
    }
    found = {"reference/keys/index.md": key_index({name: title for name, (title, _) in groups.items()})}
    for name, (title, items) in groups.items():
        tables = [f"## {key}\n\n{plain(summary(item))}\n\n{keys(item)}" for key, item in items]
        parts = [f"# {title}", "Types such as `Positive` are [bounds](index.md#bounds).", *tables]
        found[f"reference/keys/{name}.md"] = "\n\n".join(parts) + "\n"
    return found


def key_index(titles: dict[str, str]) -> str:
    """Return the page that leads to the tables, with the names of bounds."""
    kinds = {name: value for name, value in vars(bounds).items() if hasattr(value, "__metadata__")}
    rows = [
        {"type": f"`{name}`", "values": f"{kind.__origin__.__name__}, {kind.__metadata__[0]}"}
        for name, kind in kinds.items()
    ]
    links = "\n".join(f"- [{title}]({name}.md)" for name, title in titles.items())
    return (
        "# Configuration keys\n\nA section of a configuration names a class under `class_path` and its arguments under "
        "`init_args`. On the command line an argument is `--model.step_size 0.1`. `trainer`, `seed_everything` and "
        "`ckpt_path` belong to Lightning, optimizers to torch. The tables are read from signatures and docstrings.\n\n"
        f"{links}\n\n## Bounds\n\n{markdown(rows)}\n"
    )


def command(place: str) -> Any:
    """Return the function of a command."""
    return source(place.replace(":", ".").removeprefix("pt_flows."))


def keys(item: Any) -> str:
    """Return the table of the arguments of a class or function."""
    rows = [
        {
            "key": f"`{argument.name}`",
            "type": f"`{kind(argument.annotation)}`" if argument.annotation else "",
            "default": "required" if argument.default is None else f"`{argument.default}`",
            "meaning": plain(text),
        }
        for argument, text in arguments(item)
    ]
    return markdown(rows) if rows else "It has no keys."


# ------------------------------------------------------------------------------------------------- metrics, and the API


def metrics_page() -> str:
    """Return the page of metrics and the time that each takes, from its record."""
    found = sorted(BENCHMARKS.glob(METRIC_COST))
    lines = [line for page in found for line in page.read_text(encoding="utf-8").splitlines()]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    timed = lambda name: zip(*(rest for first, *rest in cells if first == f"`{name}`"), strict=True)
    heads = ("data", "before the run", "each time")
    rows = [
        {
            "metric": f"[`{metric.name}`](keys/metrics.md#{metric.name.lower()})",
            "measures": plain(summary(metric)),
            **dict.fromkeys(heads, ""),
            **dict(zip(heads, map("<br>".join, timed(metric.name)), strict=False)),
        }
        for metric in exported("metrics")
        if any(base.name == "SampleMetric" for base in metric.mro())
    ]
    times = ", ".join(f"[{head_of(page)}](../benchmarks/{page.name})" for page in found)
    guides = (
        "[Evaluation](../docs/evaluation.md) explains the numbers, [Extending](../docs/extending.md) your own metric."
    )
    return f"# Metrics and their cost\n\nTimes are CPU seconds, from the record {times}. {guides}\n\n{markdown(rows)}\n"


def api_pages() -> dict[str, str]:
    """Return the pages of the API's reference; methods have pages of their own."""
    elsewhere = ("pt_flows.methods", *(f"pt_flows.{module}" for module in MODULES))
    homes = [f"{home}.{name}" for name, home in pt_flows._HOMES.items() if home not in elsewhere]
    found = {"pt_flows": homes}
    for package in ("nets", "data", "metrics", "samplers", "callbacks"):
        found[package] = [item.path for item in exported(package)]
    found |= {module: [f"pt_flows.{module}"] for module in MODULES}
    found |= {f"functional.{module}": [f"pt_flows.functional.{module}"] for module in source("functional").modules}
    return {f"reference/api/{name}.md": api_page(name, paths) for name, paths in found.items()}


def api_page(name: str, paths: list[str]) -> str:
    """Return a page of the API's reference: a module, or what a package exports."""
    whole = "pt_flows" if name == "pt_flows" else f"pt_flows.{name}"
    if paths == [whole]:
        return f"---\ntitle: {name}\n---\n\n# {whole}\n\n::: {whole}\n    options: {{show_root_heading: false}}\n"
    opening = summary(source() if name == "pt_flows" else source(name))
    return (
        f"---\ntitle: {name}\n---\n\n# {whole}\n\n{opening}\n\n" + "\n\n".join(f"::: {path}" for path in paths) + "\n"
    )
