"""The model card of an exported model: what it is, how it draws, its numbers with their protocol, and its limits."""

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pt_flows.contracts import Weights
from pt_flows.errors import UserError
from pt_flows.evaluation.passport import Passport, read_record
from pt_flows.loop.method import Method

HEAD = """---
library_name: pt_flows
tags: [pt_flows, {tags}]
---

# {title}

{about}

    pip install pt-flows
    pt-flows sample {folder} --out samples.png{option}

```python
import pt_flows

method = pt_flows.load("{folder}")
x = pt_flows.sample(method, 64, weights="{weights}")
```

`load` takes this folder, or NAME/MODEL on Hugging Face. It reads tensors and plain values, and runs no code from them.
"""


def card(
    folder: Path, method: Method, weights: Weights, data: str, records: Sequence[tuple[Passport, Mapping[str, float]]]
) -> str:
    """Return the text of a model card.

    Args:
        folder: The folder of the model, with its picture if there is one.
        method: The method.
        weights: Its exported weights.
        data: Name of the data set; empty if it is not known.
        records: Passports and numbers of the exported weights.
    """
    name, option = type(method).__name__, " --weights raw" * (weights == "raw")
    parts = [
        HEAD.format(
            tags=", ".join(word.lower() for word in (name, data) if word),
            title=f"{name} on {data}" if data else name,
            about=about(method),
            folder=folder.name,
            weights=weights,
            option=option,
        ),
        "![samples](samples.png)\n" if (folder / "samples.png").is_file() else "",
        training_of(method, weights),
        numbers_of(records, f"pt-flows evaluate {folder.name}{option}"),
        limits_of(method, records),
        "## Citation\n\nCite the paper of the method, which the text above names, and the software pt_flows.\n",
    ]
    return "\n".join(part for part in parts if part)


def about(method: Method) -> str:
    """The first line on a method, and the first one on its file, with the paper."""
    own = inspect.getdoc(type(method)) or ""
    home = inspect.getdoc(inspect.getmodule(type(method))) or ""
    paper = re.search(r"^.*?arXiv:[\d.]+\d", home, re.MULTILINE)
    return own.partition("\n")[0] + (f" {paper[0].strip()}." if paper else "")


def training_of(method: Method, weights: Weights) -> str:
    """The section about training."""
    sizes = ", ".join(f"{name} {sum(p.numel() for p in net.parameters()):,}" for name, net in method.networks.items())
    costs = [f"{method.iteration:,} iterations", f"{method.cost.seconds:,.0f} seconds"]
    costs += [f"{method.cost.images_seen:,} data seen"] if method.cost.images_seen else []
    kind = {"ema": "averaged", "raw": "raw"}[weights]
    return (
        f"## Training\n\n{', '.join(costs)}, seed {method.trained_seed}, {kind} weights; parameters: {sizes}. "
        "`config.yaml` has all settings, if the run is known: `pt-flows fit --config config.yaml` trains it again.\n"
    )


def numbers_of(records: Sequence[tuple[Passport, Mapping[str, float]]], command: str) -> str:
    """The section with the measured numbers and their protocol, or else the command that measures."""
    if not records:
        return f"## Numbers\n\nNone were measured. `{command}` does it.\n"
    rows = [
        "| number | value | samples | split | sampler | seed of the samples |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for passport, numbers in records:
        where = f"{passport.num_samples:,} | {passport.split} | {passport.sampler} | {passport.sampling_seed}"
        rows += [f"| {key} | {value:.5g} | {where} |" for key, value in numbers.items()]
    return "## Numbers\n\n" + "\n".join(rows) + "\n\n`evaluations/` has the passport of each number: its provenance.\n"


def limits_of(method: Method, records: Sequence[tuple[Passport, Mapping[str, float]]]) -> str:
    """The section about what the numbers do not say."""
    tuned = next((passport.tuned for passport, _ in records if passport.tuned), "")
    effort = f"The recipe was tuned: {tuned}." if tuned else "How the recipe was tuned is not recorded."
    return (
        f"## Limits\n\nThis is one training run, of seed {method.trained_seed}. One run supports no verdict about the "
        f"method: a comparison needs several seeds and equal effort (`pt-flows study`). {effort} Numbers with other "
        "feature networks, sample sizes or splits do not compare with these.\n"
    )


def records_of(folder: Path | None, method: Method, weights: Weights) -> list[tuple[Path, Passport, dict[str, float]]]:
    """Evaluations of a run at the method's iteration and weights, with their files. Damaged ones are skipped."""
    found = []
    for file in sorted((folder / "evaluations").glob("*.json")) if folder is not None else []:
        try:
            passport, numbers = read_record(file)
        except UserError:
            continue
        if passport.iteration == method.iteration and passport.weights == weights:
            found.append((file, passport, numbers))
    return found


def shared_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the paths and names of the machine that trained it."""
    found = json.loads(json.dumps(config))
    for key in ("run", "ckpt_path"):
        found.pop(key, None)
    for part in (found["data"].get("init_args", {}), found["model"].get("init_args", {})):
        for key in ("root", "base"):
            part.pop(key, None)
    found.get("trainer", {}).pop("default_root_dir", None)
    return found
