"""The package as its sources describe it, read without an import, so that a build of the site takes seconds."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parent.parent


@cache
def source(path: str = "") -> Any:
    """Return the package, or a module, class or function of it, as the source describes it."""
    if not path:
        return griffe.load("pt_flows", search_paths=[ROOT])
    found = source()[path]
    return found.final_target if found.is_alias else found


def exported(package: str) -> list[Any]:
    """Return the classes and functions that a package exports."""
    return [source(f"{package}.{name}") for name in sorted(source(package).exports)]


def doc_of(item: Any) -> str:
    """Return the docstring of a module, class or function."""
    return item.docstring.value if item.docstring else ""


def summary(item: Any) -> str:
    """Return the first paragraph of a docstring."""
    return doc_of(item).partition("\n\n")[0]


def kind(annotation: Any) -> str:
    """Return an annotation with the choices in place of the name that a `Literal` has."""
    text = str(annotation)
    for part in annotation.iterate(flat=True) if isinstance(annotation, griffe.Expr) else ():
        path = part.canonical_path if isinstance(part, griffe.ExprName) else ""
        if path.startswith("pt_flows.") and (found := source(path.removeprefix("pt_flows."))).is_attribute:
            choices = re.fullmatch(r"Literal\[(.*)\]", str(found.value))
            text = re.sub(rf"\b{part.name}\b", " | ".join(choices[1].split(", ")), text) if choices else text
    return text


def arguments(item: Any) -> Iterator[tuple[Any, str]]:
    """Yield arguments with their descriptions; a class that takes `**kwargs` has those of its bases too."""
    seen = {"self"}
    for owner in [item, *(item.mro() if item.is_class else [])]:
        if item.is_class and "__init__" not in owner.members:
            continue
        texts = described(owner) | described(item)
        for argument in owner.parameters:
            if argument.name not in seen and not argument.kind.value.startswith("variadic"):
                seen.add(argument.name)
                yield argument, texts.get(argument.name, "")
        if all(argument.kind.value != "variadic keyword" for argument in owner.parameters):
            return


def described(item: Any) -> dict[str, str]:
    """Return the descriptions of arguments and attributes in a docstring."""
    parsed = item.docstring.parse("google", warnings=False) if item.docstring else []
    entries = [entry for part in parsed if part.kind.value in ("parameters", "attributes") for entry in part.value]
    return {entry.name: " ".join(entry.description.split()) for entry in entries}


class Examples(griffe.Extension):
    """Examples of docstrings as code: under the singular "Example:" they would be read as prose."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Write the title that griffe's parser knows."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
