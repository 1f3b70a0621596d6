"""Subjects of a comparison: the weights and the sampler of each run, measured by one protocol for all."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pt_flows.compare.runs import Note, Run
from pt_flows.errors import UserError
from pt_flows.evaluation.passport import SubjectKey, own_sampler
from pt_flows.runs.described import section_of
from pt_flows.runs.settings import as_text, defining_settings


def shared(run: Run) -> dict[str, Any]:
    """The part of a configuration that runs of one group have in common, without the weights and the sampler."""
    config = defining_settings(run.config)
    if isinstance(evaluation := config.get("evaluation"), dict):
        config["evaluation"] = {key: value for key, value in evaluation.items() if key not in ("weights", "sampler")}
    return config


def by_subject(runs: Sequence[Run], key: str, note: Note) -> list[Run]:
    """Every run once for each of its subjects with the number, by the protocol that all runs share.

    A failed run has failed for every subject of its configuration.

    Args:
        runs: Independent runs, which have the number unless they have failed.
        key: The number.
        note: Takes a sentence about everything that is omitted.

    Raises:
        UserError: No protocol is common to all runs.
    """
    protocol = common_protocol([run for run in runs if run.failure is None], key, note)
    own = recorded_samplers(runs)
    trained = [trained_subjects(run, own) for run in runs]
    logging = logged_protocols(runs, key, trained)
    views = [measured_views(run, key, protocol, mine, logging, note) for run, mine in zip(runs, trained, strict=True)]
    subjects: dict[str, dict[SubjectKey | None, None]] = {}
    for run, found in zip(runs, views, strict=True):
        if run.failure is None:
            subjects.setdefault(as_text(shared(run)), {}).update({view.subject: None for view in found})
    for i, run in enumerate(runs):
        if run.failure is not None:
            alike = subjects.get(as_text(shared(run))) or trained[i]
            views[i] = [replace(run, subject=subject, section=logged_section(subject, trained[i])) for subject in alike]
    return [view for found in views for view in found]


def trained_subjects(run: Run, samplers: Mapping[str, str]) -> dict[SubjectKey, str]:
    """The subjects that were measured during training, each with its section of the log.

    Args:
        run: The run.
        samplers: Default samplers of methods, as `recorded_samplers` returns them.
    """
    evaluation = run.config.get("evaluation") or {}
    own = samplers.get(run.method, own_sampler(run.method))
    sampler = configured_sampler(evaluation.get("sampler")) if run.sampler is None else run.sampler
    given = evaluation.get("weights", "ema")
    given = given if isinstance(given, list) else [given]
    return {SubjectKey(weights, sampler or own): section_of(weights, given[0]) for weights in given}


def recorded_samplers(runs: Sequence[Run]) -> dict[str, str]:
    """Methods that draw nothing or by chains according to passports, each with the name of its default sampler."""
    passports = [passport for run in runs for passport, _ in run.records]
    return {passport.method: passport.sampler for passport in passports if passport.sampler in ("", "Chains")}


def ranked(run: Run) -> Run:
    """A run, seen through the weights and the sampler that rank its checkpoints."""
    trained = trained_subjects(run, recorded_samplers([run]))
    first = next(subject for subject, section in trained.items() if section == "eval")
    return replace(run, subject=first)


def logged_section(subject: SubjectKey | None, trained: Mapping[SubjectKey, str]) -> str:
    """The section of the log about a subject; empty if it was not measured during training."""
    return "" if subject is None else trained.get(subject, "")


def configured_sampler(section: Any) -> str:
    """A sampler of a configuration as in passports, if the configuration has all of its arguments; empty without one.

    Example:
        >>> configured_sampler({"class_path": "my.Repeated", "init_args": {"times": 3}})
        'Repeated(times=3)'
    """
    if not section:
        return ""
    name = str(section["class_path"]).rsplit(".", 1)[-1]
    arguments = ", ".join(f"{key}={value}" for key, value in (section.get("init_args") or {}).items())
    return f"{name}({arguments})" if arguments else name


def logged_protocols(runs: Sequence[Run], key: str, trained: Sequence[Mapping[SubjectKey, str]]) -> set[str]:
    """Settings of evaluations in training, each with the protocol of a number that the log and a record have."""
    return {
        as_text([set_evaluation(run), passport.protocol(key)])
        for run, mine in zip(runs, trained, strict=True)
        for view in (replace(run, subject=subject, section=section) for subject, section in mine.items())
        for passport, value in view.latest(key)
        if view.logged(key) == [value]
    }


def set_evaluation(run: Run) -> dict[str, Any]:
    """The keys of a configuration on which the protocol of evaluations in training depends."""
    evaluation = run.config.get("evaluation") or {}
    return {name: evaluation.get(name) for name in ("num_samples", "full_num_samples", "split")}


def measured_views(
    run: Run,
    key: str,
    protocol: dict[str, Any] | None,
    trained: Mapping[SubjectKey, str],
    logging: Collection[str],
    note: Note,
) -> list[Run]:
    """A run once for each subject that has the number by a protocol.

    Args:
        run: The run.
        key: The number.
        protocol: The protocol; None if no run has a record.
        trained: The subjects that were measured during training, with their sections.
        logging: Settings of evaluations in training with their protocols, from the runs that tell them.
        note: Takes a sentence about everything that is omitted.
    """
    like_log = protocol is None or as_text([set_evaluation(run), protocol]) in logging
    views = []
    for subject in dict.fromkeys([*trained, *(passport.subject for passport, _ in run.records)]):
        view = replace(run, subject=subject, section=logged_section(subject, trained))
        if view.latest(key) and not replace(view, protocol=protocol).latest(key):
            of = f"its {subject.weights} weights{through(subject)}"
            note(f"{run.folder} has {key} of {of} by another protocol only: omitted")
        elif view.last(key) and not view.latest(key) and not like_log:
            note(f"{run.folder} has {key} in its log only, by another protocol or an unknown one: omitted")
        elif view.last(key):
            views.append(replace(view, protocol=protocol))
        elif subject not in trained:
            measured = sorted({k for passport, numbers in run.records if passport.subject == subject for k in numbers})
            has = f"only {', '.join(measured[:4])}{', ...' * (len(measured) > 4)}"
            note(f"{run.folder} has no {key} of its {subject.weights} weights{through(subject)}, {has}: omitted")
    return views


def through(subject: SubjectKey) -> str:
    """The words about the sampler of a subject; empty if nothing is drawn."""
    return f" through {subject.sampler}" if subject.sampler else ""


def common_protocol(runs: Sequence[Run], key: str, note: Note) -> dict[str, Any] | None:
    """The protocol that all runs share. If there are several, most runs measured one subject by it.

    Args:
        runs: The runs. Those without a record of the number do not count.
        key: The number.
        note: Takes a sentence about every protocol that is not compared.

    Returns:
        The protocol; None if no run has a record of the number.

    Raises:
        UserError: No protocol is common to all. The error names the fields that differ.
    """
    measured = [(run, found) for run in runs if (found := last_protocols(run, key))]
    if not measured:
        return None
    times = Counter(pair for _, found in measured for pair in found)
    protocols = [{text: None for _, text in found} for _, found in measured]
    common = [text for text in protocols[0] if all(text in found for found in protocols)]
    if not common:
        first = next(iter(protocols[0]))
        i = next(i for i, found in enumerate(protocols) if first not in found)
        pair = f"{measured[0][0].folder} and {measured[i][0].folder}"
        differing = difference(first, next(iter(protocols[i])))
        raise UserError(f"{key}: expected one protocol for all runs, got others for {pair} ({differing})")

    def rank(text: str) -> tuple[int, int, bool]:
        known = json.loads(text)
        return max(n for (_, own), n in times.items() if own == text), known["num_samples"], known["split"] == "train"

    chosen = max(common, key=rank)
    for other in dict.fromkeys(text for _, text in times if text != chosen):
        note(f"{key} was measured by two protocols ({difference(chosen, other)}): the first of each pair is compared")
    return json.loads(chosen)


def last_protocols(run: Run, key: str) -> list[tuple[SubjectKey, str]]:
    """The protocols by which a number was last measured, as text, each with its subject."""
    subjects = dict.fromkeys(passport.subject for passport, _ in run.records)
    latest = [(subject, replace(run, subject=subject).latest(key)) for subject in subjects]
    return list(dict.fromkeys((s, as_text(passport.protocol(key))) for s, found in latest for passport, _ in found))


def difference(first: str, second: str) -> str:
    """The fields in which two protocols differ, without the reference if the splits differ."""
    a, b = json.loads(first), json.loads(second)
    names = [name for name in a if a[name] != b[name] and (name != "reference" or a["split"] == b["split"])]
    return "; ".join(f"{name}: {a[name]} and {b[name]}" for name in names)
