"""A parser whose errors are one sentence with the key and a suggestion."""

import ast
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser

from pt_flows.cli.errors import explain, nameless_help
from pt_flows.cli.failures import CommandLineError, mistake_in
from pt_flows.cli.given import check_yaml
from pt_flows.cli.keys import Keys
from pt_flows.errors import UserError


class _Quoting(yaml.SafeDumper):
    """Writes YAML with quotes around every text, so that a text such as 1e-3 stays one."""


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


class _Numbers(ast.NodeTransformer):
    """Reads inf and nan, which the text of Python has for these numbers, although they are no literals."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Return the number."""
        return ast.Constant(float(node.id)) if node.id in ("inf", "nan") else node


def as_yaml(text: str) -> str:
    """Return a value that jsonargparse has read, and written for an inner parser as text of Python, as YAML again.

    Args:
        text: Text of Python if the value is null, a list or a mapping, which YAML would misread; or any other text.

    Example:
        >>> as_yaml("{'depth': 2, 'bound': [None, inf]}"), as_yaml("None"), as_yaml("it's")
        ('{"depth": 2, "bound": [null, .inf]}', 'null', "it's")
    """
    try:
        value = ast.literal_eval(_Numbers().visit(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, TypeError):
        return text
    if isinstance(value, dict | list):
        return yaml.dump(value, Dumper=_Quoting, default_flow_style=True, sort_keys=False, width=math.inf).strip()
    return "null" if value is None else text


class Explaining(ArgumentParser):
    """jsonargparse's parser with errors of one sentence.

    Args:
        keys: The keys of the command. The parser adds its sections and classes to them.
    """

    def __init__(self, *args: Any, keys: Keys | None = None, **kwargs: Any) -> None:
        self.keys = keys or Keys()
        self.words: Sequence[str] = ()
        super().__init__(*args, **kwargs)

    def add_class_arguments(self, theclass: Any, nested_key: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """Add a section."""
        if nested_key:
            self.keys.sections[nested_key] = theclass
        return super().add_class_arguments(theclass, nested_key, *args, **kwargs)

    def add_subclass_arguments(self, baseclass: Any, nested_key: str, *args: Any, **kwargs: Any) -> Any:
        """Add a key that accepts a class."""
        self.keys.hints[nested_key] = baseclass
        return super().add_subclass_arguments(baseclass, nested_key, *args, **kwargs)

    def parse_args(self, args: Any = None, *others: Any, **kwargs: Any) -> Any:
        """Parse the arguments, and keep them for explanations. Inner parsers get one word, such as --key=value."""
        self.words = sys.argv[1:] if args is None else list(args)
        if not self.exit_on_error:
            self.words = [name + "=" + as_yaml(text) for name, _, text in (word.partition("=") for word in self.words)]
        elif wanted := nameless_help(self.words, self.keys):
            raise CommandLineError(wanted)
        return super().parse_args(self.words, *others, **kwargs)

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Parse a configuration file, after a check that it is one."""
        if wrong := check_yaml(Path(path)):
            raise CommandLineError(wrong)
        return super().parse_path(path, *args, **kwargs)

    def instantiate_classes(self, *args: Any, **kwargs: Any) -> Any:
        """Build the objects. An error about an argument of a class names its key."""
        try:
            return super().instantiate_classes(*args, **kwargs)
        except Exception as error:
            mistake = mistake_in(error)
            if mistake is None or not self.words:
                raise
            raise UserError(self.keys.told(str(mistake), self.words)) from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Explain a message of the outermost parser. Inner parsers pass their messages to it."""
        if not self.exit_on_error:
            super().error(message, ex)
        raise CommandLineError(explain(message, self.words, self.keys)) from ex
