"""The command `study`: a whole comparison from one file."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from filelock import FileLock

from pt_flows.compare.areas import key_of
from pt_flows.compare.runs import Run, read_run
from pt_flows.compare.subjects import common_protocol
from pt_flows.compare.table import markdown
from pt_flows.errors import UserError
from pt_flows.evaluation.passport import SubjectKey, read_record
from pt_flows.files import checked_target
from pt_flows.runs.settings import as_text, defining_settings
from pt_flows.studies import measure, tuning
from pt_flows.studies.bases import stages, upon_bases, without_base
from pt_flows.studies.estimate import dry_run, has_numbers
from pt_flows.studies.options import at_least_one, taken
from pt_flows.studies.plan import (
    arm_runs,
    changes_since,
    keep_settings,
    lengthened,
    progress,
    recipes_of,
    unique_runs,
)
from pt_flows.studies.pool import Slot, slots_of
from pt_flows.studies.reading import read_study
from pt_flows.studies.recipes import Recipe
from pt_flows.studies.record import ArmRuns, compared, write_record
from pt_flows.studies.study_file import StudyFile
from pt_flows.studies.submit import Submission, submit
from pt_flows.studies.train import train_all
from pt_flows.studies.wanted import Wanted, found, identity_of

HELP = """pt-flows study FILE [--out DIR] [--jobs N] [--dry-run] [--record FILE.md] [--submit '{workers: 8, ...}']

  FILE       the study file: arms, seeds, budget, numbers and verdicts (docs/studies.md)
  --out      folder of all runs; default runs/<name of FILE>. After an interruption the same command continues there
  --jobs     number of runs side by side; default as many as there are cores or GPUs
  --dry-run  print what would run and what it would cost, by a short trial of each arm
  --record   the record to write; default record.md in the folder
  --submit   start workers through submitit that share the folder: {cluster: slurm, workers: 8, slurm_partition: gpu}
"""


def study(words: Sequence[str]) -> None:
    """Run what is missing of a study, compare its arms, and write its record.

    Args:
        words: The command line after `study`.

    Raises:
        UserError: The file or a recipe in it is wrong, or a run could not end.
    """
    if {"-h", "--help"} & set(words):
        print(HELP, end="")
        return
    options = {"out": Path, "jobs": at_least_one, "record": Path, "submit": Submission.read}
    own, rest = taken([word for word in words if word != "--dry-run"], options)
    if len(rest) != 1 or rest[0].startswith("-"):
        raise UserError(f"study: expected one study file, got {' '.join(rest) or 'none'}. See pt-flows study --help")
    file = read_study(Path(rest[0]))
    out: Path = own.get("out", Path("runs") / file.file.stem)
    target: Path = own.get("record", out / "record.md")
    if "record" in own:
        checked_target(str(target), (".md",))
    recipes = recipes_of(file, out)
    if "submit" in own:
        submit(own["submit"], words, out)
        return
    slots = slots_of(list(recipes.values()), own.get("jobs"))
    if "--dry-run" in words:
        dry_run(file, recipes, out, slots)
    else:
        run(file, recipes, out, slots, words, target)


def run(
    file: StudyFile, recipes: Mapping[str, Recipe], out: Path, slots: Sequence[Slot], words: Sequence[str], target: Path
) -> None:
    """Tune, train, measure and compare what is missing, and write the record.

    Args:
        file: The study file.
        recipes: The recipes of its arms, before tuning.
        out: Folder of the study.
        slots: Places to run.
        words: The command line after `study`.
        target: File of the record.

    Raises:
        UserError: A run could not end.
    """
    final, searches = tuning.tuned(file, recipes, out, slots)
    arms = arm_runs(file, upon_bases(file, lengthened(file, final, out, slots), out))
    for one in arms:
        if best := searches.get(one.arm.name):
            one.tuned = tuning.told(best, recipes[one.arm.name], final[one.arm.name])
            one.trials, one.tuning_seconds = best.num_trials, best.seconds
    for line in changes_since(arms, out):
        print(f"note: {line}")
    print(f"{markdown(progress(arms))}\n", flush=True)
    keep_settings(arms, out)
    runs = sorted(unique_runs(arms), key=lambda run: file.seeds.index(run[1].seed))
    check = partial(check_numbers, file, arms, out, slots[:1])
    for folder in [folder for one in arms for folder in one.finished][:1]:  # of an earlier call
        check(folder)
    for part in stages(arms, runs):
        if lost := without_base({one.arm.name: one for one in arms}, part, out):
            print(f"note: {', '.join(lost)}: omitted, because the base was not trained to its end", flush=True)
        ready = [run for run in part if run[1].name not in lost]
        train_all([run for _, run in ready], out, slots, file.title, [name for name, _ in ready], check)
        arms = [replace(one, states=found(one.wanted)) for one in arms]
    subjects = measured(file, arms, out, slots)
    folders = list({folder: None for one in arms for folder in one.folders})
    numbers = compared(file, folders, lambda run: arm_of(run, arms, subjects))
    with FileLock(out / "locks" / "record.lock", thread_local=False):
        write_record(file, arms, numbers, words, target, out)
    for number in numbers:
        print(f"\n{number.criterion}\n\n{number.text}")
    print(f"\nrecord: {target}; report: {out / 'report.html'}; run folders: {out / 'runs'}")


def check_numbers(file: StudyFile, arms: Sequence[ArmRuns], out: Path, slots: Sequence[Slot], folder: Path) -> None:
    """Check a finished run before the others are trained for hours: it has the wanted numbers, by the protocol of all.

    If the file asks for measurements, the first finished run of every data set is measured for that.

    Args:
        file: The study file.
        arms: The arms.
        out: Folder of the study.
        slots: Places to measure.
        folder: The run folder.

    Raises:
        UserError: It does not have one, or by a protocol of its own.
    """
    identity = identity_of(folder)
    one, run = next((one, run) for one in arms for run in one.wanted if run.identity == identity)
    first = [(one, run, folder), *(ended for other in arms if other is not one for ended in first_finished(other))]
    if file.measurement is not None:
        hows = [
            measure.wanted(run.name, folder, file.measurement, one.arm.sampler, one.recipe.accelerator)
            for one, run, folder in first
        ]
        is_known = [how.note(out).is_file() for how in hows]
        data = [one.recipe.config["data"] for one, _, _ in first]
        if not is_known[0] and any(known and own == data[0] for known, own in zip(is_known, data, strict=True)):
            return  # another one with these data was measured and had them
        measure.measure_all(hows[:1], out, slots)
        first = [first[0], *(ended for ended, known in zip(first[1:], is_known[1:], strict=True) if known)]
    runs = [read_run(folder) for _, _, folder in first]
    has_numbers(file, one.arm.name, runs[0].keys)
    for metric in file.metrics:
        common_protocol(runs, key_of(metric), lambda note: None)


def first_finished(one: ArmRuns) -> list[tuple[ArmRuns, Wanted, Path]]:
    """Return the first finished run of an arm with its arm and folder; none if none has finished."""
    pairs = zip(one.wanted, found(one.wanted), strict=True)
    return [(one, run, state.folder) for run, state in pairs if state.state == "finished" and state.folder][:1]


def measured(
    file: StudyFile, arms: Sequence[ArmRuns], out: Path, slots: Sequence[Slot]
) -> dict[tuple[str, SubjectKey], str]:
    """Measure the finished runs, if the file asks for it. Arms get the pictures of their measured samples.

    Returns:
        The names of arms by configuration and subject; empty if the numbers of training are compared.
    """
    if file.measurement is None:
        return {}
    wanted, names = [], {}
    for one in arms:
        for run, state in zip(one.wanted, one.states, strict=True):
            if state.state == "finished" and state.folder is not None:
                how = measure.wanted(run.name, state.folder, file.measurement, one.arm.sampler, one.recipe.accelerator)
                wanted.append(how)
                names[how.name] = (run.identity[0], one.arm.name)
    records = measure.measure_all(wanted, out, slots)
    for one in arms:
        one.pictures = [file.with_suffix(".png") for key, file in records.items() if names[key][1] == one.arm.name]
    return {(names[key][0], read_record(file)[0].subject): names[key][1] for key, file in records.items()}


def arm_of(run: Run, arms: Sequence[ArmRuns], subjects: Mapping[tuple[str, SubjectKey], str]) -> str:
    """Return the name of the arm of a run with its subject; empty if it belongs to none.

    Args:
        run: The run, with its subject.
        arms: The arms.
        subjects: The names of arms by configuration and subject; empty if no run was measured apart.
    """
    identity = as_text(defining_settings(run.config))
    if run.subject is not None and (identity, run.subject) in subjects:
        return subjects[identity, run.subject]
    own = [one for one in arms if one.wanted[0].identity[0] == identity and one.arm.sampler is None]
    is_known = any(identity == known for known, _ in subjects)
    return own[0].arm.name if own and run.section == "eval" and not is_known else ""
