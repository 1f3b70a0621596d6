"""The record of a study: one Markdown file with all tables, verdicts, pictures and costs, which programs can read."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal

from pt_flows.compare.areas import AREA, key_of
from pt_flows.compare.curves import curves_figure
from pt_flows.compare.groups import Criterion, Group, comparable
from pt_flows.compare.report import page
from pt_flows.compare.runs import Run
from pt_flows.compare.sampling import sampling_figure
from pt_flows.compare.table import markdown, mean, number, shown, table
from pt_flows.compare.verdicts import Verdict, judged, said
from pt_flows.errors import UserError
from pt_flows.files import replacing
from pt_flows.studies.claims import duration, marked
from pt_flows.studies.figures import last_picture, samples_figure
from pt_flows.studies.recipes import Recipe
from pt_flows.studies.study_file import Arm, StudyFile, Wish
from pt_flows.studies.wanted import Found, Wanted, last_row

LEVEL = 0.05
Finding = Literal["holds", "does not hold", "inconclusive"]


@dataclass
class ArmRuns:
    """An arm and its runs.

    Attributes:
        arm: The arm.
        recipe: Its recipe as it was run, tuned if it was to be.
        wanted: Its runs, one for each seed.
        states: Their states.
        tuned: Sentence about its tuning; empty if it is not tuned.
        trials: Number of trials.
        tuning_seconds: Seconds of training in trials.
        pictures: Pictures of samples that were measured apart, if any.
    """

    arm: Arm
    recipe: Recipe
    wanted: list[Wanted]
    states: list[Found] = field(default_factory=list)
    tuned: str = ""
    trials: int = 0
    tuning_seconds: float = 0.0
    pictures: list[Path] = field(default_factory=list)

    @property
    def folders(self) -> list[Path]:
        """The run folders."""
        return [state.folder for state in self.states if state.folder is not None]

    @property
    def shown(self) -> Path | None:
        """A picture of the arm's samples: of the first measurement, else of the first finished run at its end."""
        trained = [] if self.arm.sampler is not None else [last_picture(folder) for folder in self.finished]
        found = [file for file in (*self.pictures, *trained) if file is not None and file.is_file()]
        return found[0] if found else None

    @property
    def finished(self) -> list[Path]:
        """The folders of finished runs."""
        return [state.folder for state in self.states if state.state == "finished" and state.folder is not None]


@dataclass
class Number:
    """A number by which the arms are compared.

    Attributes:
        groups: The arms with their runs.
        criterion: The number and its direction.
        verdicts: The verdicts on the wanted pairs.
        notes: Sentences about runs that are omitted, and about limits of the verdicts.
    """

    groups: list[Group]
    criterion: Criterion
    verdicts: list[Verdict]
    notes: list[str]

    @property
    def lines(self) -> list[str]:
        """Sentences about the verdicts, their limits and the floor."""
        return said(self.groups, self.criterion, self.verdicts)

    @property
    def text(self) -> str:
        """The table with its notes and verdicts as Markdown."""
        cells = shown(table(self.groups, self.criterion, None), self.criterion.key)
        lines = [f"- {line}" for line in (*self.lines, *(f"note: {note}" for note in self.notes))]
        return "\n\n".join(part for part in (markdown(cells) if cells else "No run has it.", "\n".join(lines)) if part)

    def means(self, wish: Wish) -> tuple[float | None, float | None]:
        """The means of the two arms of a wanted verdict; None for an arm without a finished run."""
        values = {group.name: group.values(self.criterion.key) for group in self.groups}
        better, than = (mean(own) if (own := values.get(name)) else None for name in (wish.better, wish.than))
        return better, than


def compared(study: StudyFile, folders: Sequence[Path], names: Callable[[Run], str]) -> list[Number]:
    """Compare the arms by every number of the study.

    Args:
        study: The study.
        folders: All run folders.
        names: Returns the name of the arm of a run with its subject; empty for one that is in no arm.

    Raises:
        UserError: Runs do not have a number, or not by one protocol.
    """
    found = []
    for metric in study.metrics or (None,):
        notes: list[str] = []
        try:
            groups, criterion = comparable([str(folder) for folder in folders], metric, notes.append, names)
        except UserError as error:
            raise UserError(f"{study.file}: metrics: {str(error).removeprefix('--metric: ')}") from error
        order = list(study.arms)
        groups = sorted((group for group in groups if group.name in order), key=lambda group: order.index(group.name))
        pairs = {frozenset((wish.better, wish.than)) for wish in study.wishes if wish.metric == metric}
        verdicts = judged(groups, criterion, LEVEL, pairs if study.wishes else None)
        found.append(Number(groups, criterion, verdicts, notes))
    return found


def finding(verdicts: Sequence[Verdict], wish: Wish) -> Finding:
    """Return whether a wanted verdict holds.

    Args:
        verdicts: The verdicts by the wish's number.
        wish: The wanted verdict.
    """
    for verdict in verdicts:
        if verdict.verdict == "better" and {verdict.first, verdict.second} == {wish.better, wish.than}:
            return "holds" if verdict.first == wish.better else "does not hold"
    return "inconclusive"


def joined(findings: Sequence[Finding]) -> Finding:
    """Return the finding about a claim: it holds if all of its verdicts do, and does not if one is the opposite.

    Example:
        >>> joined(["holds", "inconclusive"]), joined(["holds", "does not hold"]), joined(["holds", "holds"])
        ('inconclusive', 'does not hold', 'holds')
    """
    if "does not hold" in findings:
        return "does not hold"
    return "holds" if all(found == "holds" for found in findings) else "inconclusive"


def outcome(wish: Wish, numbers: Mapping[str, Number]) -> dict[str, Any]:
    """Return a wanted verdict with its finding and its numbers, as plain data."""
    found = numbers[wish.metric]
    pair = {wish.better, wish.than}
    verdict = next((v for v in found.verdicts if {v.first, v.second} == pair), None)
    share = None if verdict is None else verdict.improvement
    if verdict is not None and verdict.first != wish.better:
        share = 1 - verdict.improvement
    better, than = found.means(wish)
    return {
        "better": wish.better, "than": wish.than, "metric": wish.metric, "finding": finding(found.verdicts, wish),
        "improvement": share, "p": verdict.p if verdict else None, "better_mean": better, "than_mean": than,
    }  # fmt: skip


def write_record(
    study: StudyFile, arms: Sequence[ArmRuns], numbers: Sequence[Number], words: Sequence[str], target: Path, out: Path
) -> None:
    """Write the record with its pictures beside it, and the report in the folder of the study.

    Args:
        study: The study.
        arms: The arms with their ended runs.
        numbers: The comparisons.
        words: The command line after `study`.
        target: File of the record, an .md.
        out: Folder of the study.
    """
    by_metric = dict(zip(study.metrics, numbers, strict=False))
    claims = [
        {"paper": claim.paper, "text": claim.text, "verdicts": (found := [outcome(w, by_metric) for w in claim.wishes]),
         "finding": joined([one["finding"] for one in found])}
        for claim in study.claims
    ]  # fmt: skip
    parts = [f"# {study.title}", f"    {shlex.join(['pt-flows', 'study', *words])}", setting(study, arms)]
    parts += [f"**Claim: {claim['finding']}.** {claim['paper']}: {claim['text']}" for claim in claims]
    parts += [f"## {found.criterion}\n\n{found.text}" for found in numbers]
    parts += [f"![{title}](pictures/{file.name})" for title, file in pictures(arms, numbers, target)]
    parts += ["## Runs", markdown([arm_row(one, study.changes) for one in arms]), *tuning(arms), failures(arms)]
    summary = {
        "format": 1, "title": study.title, "what": short(study, arms), "claims": claims,
        "runs": len(unique(arms)), "failed": sum(state.state == "failed" for state in unique(arms)),
        "trials": sum(one.trials for one in arms), "seconds": seconds(arms), "date": f"{date.today()}",
    }  # fmt: skip
    parts.append(marked(summary))
    with replacing(target) as partial:
        partial.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    with replacing(out / "report.html") as partial:
        first = numbers[0]
        partial.write_text(page(first.groups, first.criterion, first.notes), encoding="utf-8")


def unique(arms: Sequence[ArmRuns]) -> list[Found]:
    """Return the states of all runs. Arms that differ by their sampler share runs."""
    return list({state.folder: state for one in arms for state in one.states}.values())


def seconds(arms: Sequence[ArmRuns]) -> float:
    """Return the seconds of training of all runs and trials."""
    folders = [state.folder for state in unique(arms) if state.folder]
    return sum(map(trained, folders)) + sum(one.tuning_seconds for one in arms)


def evaluated(folder: Path) -> float:
    """Return the number of samples that the networks of a run have evaluated."""
    return sum(value for key, value in last_row(folder).items() if "evaluations_" in key)


def trained(folder: Path) -> float:
    """Return the seconds of training of a run."""
    return last_row(folder).get("cost/seconds", 0.0)


def short(study: StudyFile, arms: Sequence[ArmRuns]) -> str:
    """Return what was run, in a few words."""
    data = {str(one.recipe.config["data"]["class_path"]).rsplit(".", 1)[-1] for one in arms}
    found = [(one.recipe.config["data"].get("init_args") or {}).get("target", "") for one in arms]
    targets = {target for target in found if isinstance(target, str)}  # that of TwoDomains is a section
    where = " and ".join(sorted(data)) + "".join(f" {name}" for name in sorted(targets) if name)
    return f"{len(arms)} arms, {len(study.seeds)} seeds, {where}"


def setting(study: StudyFile, arms: Sequence[ArmRuns]) -> str:
    """Return a list about the runs: their number, budget, cost, device and code."""
    known = []
    for state in unique(arms):
        file = state.folder / "environment.json" if state.folder else None
        known += [json.loads(file.read_text())] if file and file.is_file() else []
    each = lambda read: ", ".join(sorted({str(read(environment)) for environment in known})) or "unknown"
    packages = ", ".join(
        f"{name} {each(lambda environment: environment['packages'].get(name))}"  # noqa: B023  called at once
        for name in ("pt-flows", "torch", "lightning")
    )
    budget = f"equal budgets of {study.budget}" if study.budget else "as many iterations as each recipe has"
    if study.budget is not None and study.budget.unit != "iterations":  # from the cost of short trials
        spent = evaluated if study.budget.unit == "evaluations" else trained
        used = [mean([spent(folder) for folder in one.finished]) for one in arms if one.finished]
        budget += f", of which arms used {min(used):,.0f} to {max(used):,.0f}" if used else ""
    common = f"\n- Changes of all recipes: {changes_text(study.changes)}" if study.changes else ""
    return (
        f"- {short(study, arms)}, {budget}; study file `{study.file}`{common}\n"
        f"- Cost: {len(unique(arms))} runs and {sum(one.trials for one in arms)} trials of tuning, "
        f"{duration(seconds(arms))} of training by one process in all\n"
        f"- Device: {each(lambda e: e['device'])}; Python {each(lambda e: e['python'])}, {packages}; "
        f"commit {each(lambda e: e['git_commit'])}; {date.today()}"
    )


def changes_text(changes: Mapping[str, Any]) -> str:
    """Return keys and values in one line, without those of folders and of W&B."""
    return ", ".join(f"`{word}`" for word in (f"{k}: {json.dumps(v)}" for k, v in changes.items() if "run." not in k))


def arm_row(one: ArmRuns, common: Mapping[str, Any]) -> dict[str, str]:
    """Return the row of an arm in the table of runs.

    Args:
        one: The arm.
        common: Changes of all arms, which are told elsewhere.
    """
    changes = changes_text({key: value for key, value in one.arm.changes.items() if common.get(key) != value})
    return {
        "arm": one.arm.name,
        "recipe": ", ".join(f"`{path.name}`" for path in one.arm.configs),
        "changes": "; ".join(
            filter(None, (changes, f"sampler `{json.dumps(one.arm.sampler)}`" if one.arm.sampler is not None else ""))
        )
        or "none",
        "iterations": f"{one.wanted[0].iterations:,}",
        "runs": str(len(one.states)),
        "failed": str(sum(state.state == "failed" for state in one.states)),
        "minutes": number(mean([trained(folder) / 60 for folder in one.folders])),
        "samples evaluated by networks": number(mean([evaluated(folder) for folder in one.folders])),
    }


def tuning(arms: Sequence[ArmRuns]) -> list[str]:
    """Return the section about tuning, if an arm was tuned."""
    lines = [f"- {one.arm.name}: {one.tuned}" for one in arms if one.tuned]
    return ["## Tuning", "\n".join(lines)] if lines else []


def failures(arms: Sequence[ArmRuns]) -> str:
    """Return the section about failed runs, or a sentence that there are none."""
    failed = [
        f"- {run.name}: {state.reason}"
        for one in arms
        for run, state in zip(one.wanted, one.states, strict=True)
        if state.state == "failed"
    ]
    return "## Failures\n\n" + "\n".join(dict.fromkeys(failed)) if failed else "No run failed."


def pictures(arms: Sequence[ArmRuns], numbers: Sequence[Number], target: Path) -> list[tuple[str, Path]]:
    """Draw the curves of a number and samples of each arm; return titles and files."""
    drawn = []
    shown = {one.arm.name: file for one in arms if (file := one.shown) is not None}
    figures = {"samples": ("samples at the end, the first finished run of each arm", samples_figure(shown))}
    if (curves := with_curves(numbers)) is not None:
        groups, criterion = curves
        bases = ", without the cost of bases" if any(one.arm.after is not None for one in arms) else ""
        figures = {"curves": (f"{criterion.key} of every run{bases}", curves_figure(groups, criterion))} | figures
    for one in reversed(numbers):
        if (figure := sampling_figure(one.groups, one.criterion)) is not None:
            figures["sampling"] = (f"{one.criterion.key} against evaluations per sample, with 95 % intervals", figure)
    for kind, (title, figure) in figures.items():
        if figure is not None:
            file = target.parent / "pictures" / f"{target.stem}_{kind}.png"
            with replacing(file) as partial:
                figure.savefig(partial, dpi=80, format="png")
            drawn.append((title, file))
    return drawn


def with_curves(numbers: Sequence[Number]) -> tuple[list[Group], Criterion] | None:
    """Return a number that was measured more than once, with its arms: one whose area is judged, else the first."""
    for one in sorted(numbers, key=lambda one: not one.criterion.key.startswith(AREA)):
        key = key_of(one.criterion.key)
        if any(len(run.curve(key)) > 1 for group in one.groups for run in group.runs):
            return one.groups, Criterion(key, one.criterion.higher)
    return None
