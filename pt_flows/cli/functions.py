"""Commands that are functions. Their arguments are the options."""

import json
from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from itertools import takewhile
from typing import get_type_hints

from pt_flows.bounds import check_arguments
from pt_flows.cli.parser import Explaining
from pt_flows.errors import UserError


def run_function(command: str, function: Callable[..., None], words: Sequence[str]) -> None:
    """Call the function of a command. Words before the first option are its first argument.

    Args:
        command: The name of the command.
        function: The function, whose arguments are checked against their annotations.
        words: The command line after the name.

    Raises:
        UserError: The first argument is missing, or an argument is out of its bounds.
    """
    words = [with_underscores(word) for word in words]
    first = next(iter(signature(function).parameters.values()))
    places = list(takewhile(lambda word: not word.startswith("-"), words))
    options = list(words[len(places) :])
    given = places or {f"--{first.name}", "-h", "--help"} & {option.partition("=")[0] for option in options}
    if first.default is Parameter.empty and not given:
        raise UserError(f"{command}: expected {first.name.upper()} first, got none. See pt-flows {command} --help")
    if places:
        value = [json.dumps(places)] if first.name == "runs" else places
        options = [f"--{first.name}", *value, *options]
    parser = Explaining(prog=f"pt-flows {command}", description=(function.__doc__ or "").partition("\n")[0])
    parser.add_function_arguments(function)
    hints = get_type_hints(function, include_extras=True)
    parser.keys.hints.update({name: hints[name] for name in signature(function).parameters})
    switches = [name for name in signature(function).parameters if hints[name] is bool]
    arguments = vars(parser.instantiate_classes(parser.parse_args(with_true(options, switches))))
    check_arguments("--", hints, arguments)
    function(**arguments)


def with_true(options: Sequence[str], switches: Sequence[str]) -> list[str]:
    """Return options with the value of switches that have none: --report becomes --report true.

    Example:
        >>> with_true(["--report", "--dry_run", "a.json"], ["report"])
        ['--report', 'true', '--dry_run', 'a.json']
    """
    found = []
    for word, following in zip(options, [*options, "--"][1:], strict=True):
        found += [word, "true"] if word[2:] in switches and following.startswith("--") else [word]
    return found


def with_underscores(word: str) -> str:
    """Return an option with the name of a function's argument: --long-run becomes --long_run."""
    name, is_assigned, value = word.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + is_assigned + value if word.startswith("--") else word
