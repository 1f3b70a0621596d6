"""The command `completion`: a script with which bash or zsh completes command lines of pt-flows.

Its words come from the usage text, from signatures, and from the parser of `fit`. The script is static and so fast.
"""

import inspect
import re
import shlex
from collections.abc import Iterable, Sequence
from enum import EnumType
from pkgutil import resolve_name
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pt_flows.cli.fit import FlowCLI
from pt_flows.cli.keys import base_of, public
from pt_flows.cli.main import FUNCTIONS, STUDIES, USAGE
from pt_flows.cli.shipped import recipe_file, recipe_names
from pt_flows.cli.stopping import Stopped, result_of
from pt_flows.errors import UserError

SCRIPT = """\
_pt_flows() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}} words=
  if [[ $current == "=" ]]; then current=
  elif [[ $previous == "=" ]]; then previous=${{COMP_WORDS[COMP_CWORD-2]}}; fi
  if ((COMP_CWORD == 1)); then words={commands}
  elif [[ $current == -* ]]; then
    case $command in
{own}
    esac
    case $command in {shared}) words+=" "{keys} ;; esac
  else
    case "$command $previous" in
{values}
    esac
    case $command in {shared})
      case $previous in
{shared_values}
      esac ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _pt_flows pt-flows
"""
"""The script for bash. Files complete a word that nothing else does."""

ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"
"""Lines before it, with which zsh understands it."""

OPTION = r"(?<!\S)\[?(--[a-z][\w-]*)(?![\w.])"
"""An option in the usage of a command, but no dotted key of `fit`."""

HELP = """pt-flows completion bash|zsh: print a script that completes commands, options, recipes and fixed values

In ~/.bashrc: source FILE, after pt-flows completion bash > FILE
"""


class CollectingCLI(FlowCLI):
    """The command `fit` up to the point where it would parse its words."""

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Collect what the parser knows.

        Raises:
            Stopped: Always. The result is a pair of the options and the keys.
        """
        actions = self._parser(self.command)._actions  # argparse has no public list
        raise Stopped(([word for action in actions for word in action.option_strings], self.keys))


def completion(words: Sequence[str]) -> None:
    """Print the script of a shell.

    Args:
        words: The name of the shell, bash or zsh.

    Raises:
        UserError: It is another shell.
    """
    if {"-h", "--help"} & set(words):
        print(HELP, end="")
        return
    if list(words) not in (["bash"], ["zsh"]):
        raise UserError(f"completion: expected bash or zsh, got {' '.join(words) or 'none'}. Name one of them")
    print((ZSH if words[0] == "zsh" else "") + script(), end="")


def script() -> str:
    """Return the script for bash."""
    usage, keys = usage_of_commands(), keys_of_fit()
    shared = [command for command, text in usage.items() if "--config" in text or "--KEY" in text]
    own = {command: re.findall(OPTION, text) for command, text in usage.items()}
    values = {f"{command} {command}": recipe_names() for command, text in usage.items() if "CONFIG" in text.split()}
    values["completion completion"] = ["bash", "zsh"]
    for command, place in STUDIES.items():
        own[command] += re.findall(OPTION, resolve_name(place.partition(":")[0]).HELP)
    for command, place in FUNCTIONS.items():
        hints = get_type_hints(function := resolve_name(place), include_extras=True)
        for name in inspect.signature(function).parameters:
            flag = "--" + name.replace("_", "-")
            own[command].append(flag)
            values[f"{command} {flag}"] = choices(hints[name])
    return SCRIPT.format(
        commands=quoted([*usage, "--version", "--help"]),
        own="\n".join(f"      {command}) words={quoted([*found, '--help'])} ;;" for command, found in own.items()),
        shared="|".join(shared), keys=quoted(keys), values=cases(values), shared_values=cases(keys),
    )  # fmt: skip


def usage_of_commands() -> dict[str, str]:
    """Return the words of the usage text after each command."""
    found: dict[str, str] = {}
    for command, text in re.findall(r"^  pt-flows ([a-z][a-z-]*) +(.*)", USAGE, re.M):
        found[command] = f"{found.get(command, '')} {text}"
    return found


def keys_of_fit() -> dict[str, list[str]]:
    """Return the options of `fit` with their fixed values: those of the parser, of all classes and of all recipes."""
    options, keys = result_of(CollectingCLI, ["fit"])
    lines = [["--config", recipe_file(name)] for name in recipe_names()]
    bases = {top: base for top in keys.top if (base := base_of(keys.hints.get(top)))}
    lines += [[f"--{top}", cls.__name__] for top, base in bases.items() for cls in public(base)]
    found: dict[str, list[str]] = {word: [] for word in options if not word.endswith("+")}
    for line in lines:
        classes = keys.existing(line)
        for path in classes:
            known = found.get(f"--{path}", [])
            found[f"--{path}"] = list(dict.fromkeys([*known, *choices(keys.hint(path, classes))]))
    return found | {name: recipe_names() for name in ("--config", "-c")}


def choices(hint: Any) -> list[str]:
    """Return the fixed values of an annotation: literals, members, true and false, or the names of classes.

    Example:
        >>> choices(Literal["train", "test"] | None), choices(bool), choices(int)
        (['train', 'test'], ['true', 'false'], [])
    """
    if found := fixed(hint):
        return list(dict.fromkeys(found))
    return sorted(cls.__name__ for cls in public(base)) if (base := base_of(hint)) else []


def fixed(hint: Any) -> list[str]:
    """Return the literals, members, and true and false of an annotation."""
    if hint is bool:
        return ["true", "false"]
    if get_origin(hint) is Literal:
        return [str(value) for value in get_args(hint)]
    if isinstance(hint, EnumType):
        return list(hint.__members__)
    inner = get_args(hint) if get_origin(hint) in (Annotated, Union, UnionType, list) else ()
    return [value for one in inner for value in fixed(one)]


def quoted(words: Iterable[str]) -> str:
    """Return words as one word of the shell, each once and in order."""
    return shlex.quote(" ".join(dict.fromkeys(words)))


def cases(values: dict[str, list[str]]) -> str:
    """Return lines of a `case` of the shell for those keys that have values."""
    return "\n".join(f"      {shlex.quote(key)}) words={quoted(found)} ;;" for key, found in values.items() if found)
