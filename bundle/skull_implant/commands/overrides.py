"""Mistyped overrides of `python -m monai.bundle run`, which MONAI itself accepts in silence."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import monai.bundle
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser

from bundle.skull_implant.commands.command_line import is_flag

USAGE_ERROR = 2


def refuse_unknown_overrides(arguments: Sequence[str] | None = None) -> None:
    """End with status 2 and one line on stderr if an override names a key that no config file has.

    The first expression of a run list, because MONAI calls nothing of a bundle earlier. A key inside a component (a
    mapping with `_target_`) may be new: it is an argument, and the component refuses those it does not know. Anything
    but `python -m monai.bundle run`, such as MONAI Label's server or a test, passes unchecked.

    Args:
        arguments: of the process, the program first; None takes `sys.argv`.
    """
    given = flags_of_run(arguments)
    if given is None:
        return
    if "args_file" in given:
        given = {**ConfigParser.load_config_file(given["args_file"]), **given}
    config = ConfigParser.load_config_files(given["config_file"])
    own = inspect.signature(monai.bundle.run).parameters
    unknown = [key for key in given if key not in own and not names_a_key(key, config)]
    if unknown:
        known = [key for key in config if key not in ("imports", "initialize")]
        near = difflib.get_close_matches(unknown[0].lstrip("+"), known, n=3) or known
        print(f"monai.bundle run: no key --{unknown[0]} in the config; known: {', '.join(near)}", file=sys.stderr)
        sys.exit(USAGE_ERROR)


def flags_of_run(arguments: Sequence[str] | None = None) -> dict[str, Any] | None:
    """The flags of a process that is `python -m monai.bundle run`; None in any other.

    Args:
        arguments: of the process, the program first; None takes `sys.argv`.
    """
    words = list(sys.argv if arguments is None else arguments)
    if Path(words[0]).parts[-3:] != ("monai", "bundle", "__main__.py") or words[1:2] != ["run"]:
        return None
    return flags(words[2:])


def flags(words: Sequence[str]) -> dict[str, Any]:
    """Names and values of flags as fire reads them: `--a b`, `--a=b`, `--a`, `--noa`, `-a b`; dashes as underscores."""
    found: dict[str, Any] = {}
    value_is_next = False
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if value_is_next or not is_flag(word):
            value_is_next = False
            continue
        name, equals, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        value_is_next = not equals and not is_flag(following)
        if equals or value_is_next:
            found[name] = DefaultParseValue(value if equals else following)
        else:
            negated = name.startswith("no")  # fire strips it from any name, `--normal` would be `rmal`
            found[name[2:] if negated else name] = not negated
    return found


def names_a_key(override: str, config: dict[str, Any]) -> bool:
    """Whether `a`, `+a`, `a#b` or `a::b` names something in a config, or an argument of one of its components."""
    node: Any = config
    for part in override.lstrip("+").replace("#", "::").split("::"):
        if isinstance(node, list):
            node = {str(number): item for number, item in enumerate(node)}
        if not isinstance(node, dict):
            return False
        if part not in node:
            return "_target_" in node
        node = node[part]
    return True
