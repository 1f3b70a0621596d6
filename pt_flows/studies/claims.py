"""The table of claims, from the records of studies: `python -m pt_flows.studies.claims benchmarks docs/claims.md`."""

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pt_flows.compare.table import markdown, number
from pt_flows.errors import UserError
from pt_flows.files import replacing

MARK = "<!-- record: {} -->"
"""The last line of a record, with the machine-readable record."""
PAGE = """# Claims

`make claims` writes this page from the records of studies ([studies.md](studies.md)). Every row has a record. A claim
holds if all of its verdicts say so. It does not hold if one of them says the opposite. Otherwise it is inconclusive.
Claims are in our own words, and are about the small settings of the records alone.
"""


def marked(content: dict[str, Any]) -> str:
    """Return the last line of a record.

    Args:
        content: The machine-readable record.
    """
    text = json.dumps(content, ensure_ascii=False, sort_keys=True)
    return MARK.format(text.replace("-->", "--\\u003e"))


def read_marked(path: Path) -> dict[str, Any] | None:
    """Read the machine-readable part of a record; None if the file is no record of a study.

    Raises:
        UserError: It is damaged.
    """
    match = re.search(r"^<!-- record: (.*) -->$", path.read_text(encoding="utf-8"), re.M)
    if match is None:
        return None
    try:
        content = json.loads(match[1])
        [claim["finding"] for claim in content["claims"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected a record of a study, got a damaged one. Repeat the study") from error
    return content


def page(folder: Path, target: Path) -> str:
    """Return the page of claims.

    Args:
        folder: Folder of the records.
        target: File of the page, for its links.
    """
    rows, others = [], []
    for path in sorted(folder.glob("*.md")):
        if record := read_marked(path):
            link = Path(os.path.relpath(path.absolute(), target.absolute().parent))
            rows += [row_of(claim, record, link) for claim in record["claims"]]
            others += [] if record["claims"] else [f"- [{plain(record['title'])}]({link.as_posix()})"]
    table = markdown(rows) if rows else "There is no record of a claim yet."
    title = "\nStudies without a claim of a paper, whose records have verdicts, too:\n"
    listed = "\n".join([title, *others]) if others else ""
    return f"{PAGE}\n{table}\n{listed}".rstrip("\n") + "\n"


def row_of(claim: dict[str, Any], record: dict[str, Any], link: Path) -> dict[str, str]:
    """Return the row of a claim."""
    runs = f"{record['runs']} runs" + (f", {record['failed']} failed" if record["failed"] else "")
    trials = f", {record['trials']} trials of tuning" if record["trials"] else ""
    return {
        "paper": plain(claim["paper"]),
        "claim": plain(claim["text"]),
        "run": f"[{plain(record['title'])}]({link.as_posix()}): {plain(record['what'])}",
        "cost": f"{runs}{trials}, {duration(record['seconds'])}",
        "finding": f"**{claim['finding']}**",
        "numbers": "; ".join(told(verdict) for verdict in claim["verdicts"]),
    }


def told(verdict: dict[str, Any]) -> str:
    """Return a verdict of a record as text."""
    means = (verdict["better_mean"], verdict["than_mean"])
    better, than = ("-" if value is None else number(value) for value in means)
    text = f"{verdict['metric']} of {verdict['better']} against {verdict['than']}: {better} against {than}"
    if verdict["p"] is None:
        return plain(text)
    return plain(f"{text} (probability of improvement {verdict['improvement']:.2g}, p = {verdict['p']:.2g})")


def duration(seconds: float) -> str:
    """Return a duration as text.

    Example:
        >>> duration(42), duration(600), duration(9000)
        ('42 seconds', '10 minutes', '2.5 hours')
    """
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


def plain(text: str) -> str:
    """Return text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def main(words: Sequence[str]) -> None:
    """Write the page of claims.

    Args:
        words: Folder of the records, and the file to write.
    """
    folder, target = map(Path, words)
    with replacing(target) as partial:
        partial.write_text(page(folder, target), encoding="utf-8")
    print(f"wrote {target}")


if __name__ == "__main__":
    main(sys.argv[1:])
