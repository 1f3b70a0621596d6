"""The page of the documentation about a user's mistake."""

import re
from collections.abc import Sequence

from pt_flows.cli.given import given
from pt_flows.cli.shipped import with_recipes

KEYS = {
    "rates": "rates", r"(evaluation\.)?sampler": "samplers", "evaluation": "evaluation", "perf": "scale",
    r"trainer\.(devices|num_nodes|strategy|precision)": "scale", r"run\.(wandb|project)": "dashboards",
}  # fmt: skip
"""Pages by patterns of keys. A key has the page of the section above it, too."""

CLASSES = {
    "W1FE": "flows", "W2FE": "flows", "MinibatchW2FE": "flows", "JSFlow": "flows", "ODEGAN": "ode_gan",
    "WGANGP": "baselines", "SNGAN": "baselines", "R3GAN": "baselines", "CFM": "baselines",
    "GradientLayers": "gradient_layers", "MomentGAN": "one_layer", "DAEBM": "energy", "ImprovedCD": "energy",
    "PCD": "energy", "IWAE": "latent", "SimVAE": "simulators", "AdversarialTraining": "supervised", "ADMMRNN": "admm",
    "ImageNet": "scale", "Simulated": "simulators", "OneLayer": "one_layer", "TwoDomains": "flows",
    "LinearRegression": "supervised", "Kink": "supervised", "ImageRows": "supervised", "Text": "supervised",
}  # fmt: skip
"""Pages of methods and data, for errors about keys of `model` and `data`."""

COMMANDS = {
    "tune": "tuning", "tune-speed": "scale", "sweep": "tuning", "study": "studies", "evaluate": "evaluation",
    "compare": "evaluation", "report": "evaluation", "dashboard": "dashboards", "density": "energy", "ood": "energy",
    "invert": "simulators", "geodesic": "geometry", "export": "sharing", "push": "sharing", "prepare": "scale",
    "check-method": "checking",
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
        >>> with_page("data.size: expected an int, got 'x'", ["fit", "--data", "OneLayer"])
        "data.size: expected an int, got 'x'. See docs/one_layer.md"
    """
    found = re.match(r"(?:there is no key )?-{0,2}([a-z_][\w.]*)(?=$|[:; ])", text)
    page = next((page for key, page in KEYS.items() if found and re.match(rf"({key})(\.|$)", found[1])), None)
    page = page or COMMANDS.get(next(iter(words), "")) or (page_of_class(found[1], words) if found else None)
    if page is None or "docs/" in text:
        return text
    return f"{text}{'' if text.endswith(('.', '?')) else '.'} See docs/{page}.md"


def page_of_class(key: str, words: Sequence[str]) -> str | None:
    """Return the page of the method or the data that a key belongs to, if there is one.

    Args:
        key: The key.
        words: The command line. Its last word about the section, or that of its files, names the class.
    """
    section, dot, _ = key.partition(".")
    if section not in ("model", "data") or not dot:
        return None
    names = [value for name, value in given(with_recipes(words)) if name in (section, f"{section}.class_path")]
    named = [name.rsplit(".", 1)[-1] for name in names if isinstance(name, str)]
    return CLASSES.get(named[-1]) if named else None
