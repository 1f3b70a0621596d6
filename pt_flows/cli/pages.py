"""The page of the documentation about a user's mistake."""

import re
from collections.abc import Sequence

KEYS = {
    "rates": "rates", r"(evaluation\.)?sampler": "samplers", "evaluation": "evaluation", "perf": "scale",
    r"trainer\.(devices|num_nodes|strategy|precision)": "scale", r"run\.(wandb|project)": "dashboards",
}  # fmt: skip
"""Pages by patterns of keys. A key has the page of the section above it, too."""

COMMANDS = {
    "tune": "tuning", "sweep": "tuning", "study": "studies", "evaluate": "evaluation", "compare": "evaluation",
    "report": "evaluation", "dashboard": "dashboards", "density": "energy", "ood": "energy", "invert": "simulators",
    "geodesic": "geometry", "export": "sharing", "push": "sharing", "prepare": "scale", "check-method": "checking",
}  # fmt: skip
"""Pages by commands, for errors about other things than these keys."""


def with_page(text: str, words: Sequence[str]) -> str:
    """Return the sentence of an error with the page of the documentation about it, if there is one.

    Args:
        text: The sentence.
        words: The command line.

    Example:
        >>> with_page("rates.every: expected an int, got 'x'", ["fit"])
        "rates.every: expected an int, got 'x'. See docs/rates.md"
        >>> with_page("data.size: expected an int, got 'x'", ["fit"])
        "data.size: expected an int, got 'x'"
    """
    found = re.match(r"(?:there is no key )?-{0,2}([a-z_][\w.]*)(?=$|[:; ])", text)
    page = next((page for key, page in KEYS.items() if found and re.match(rf"({key})(\.|$)", found[1])), None)
    page = page or COMMANDS.get(next(iter(words), ""))
    if page is None or "docs/" in text:
        return text
    return f"{text}{'' if text.endswith(('.', '?')) else '.'} See docs/{page}.md"
