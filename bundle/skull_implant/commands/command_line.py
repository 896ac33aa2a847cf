"""One guard for every command: wrong flags and types are refused before any work, expected errors are one line."""

from __future__ import annotations

import functools
import inspect
import logging
import re
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fire
from fire import helptext
from fire.decorators import SetParseFns
from fire.trace import FireTrace

from bundle.skull_implant.errors import InputError, as_input_error

USAGE_ERROR = 2
INPUT_ERROR = 1


def run_command(function: Callable[..., int | None]) -> None:
    """Run a function as a command with fire, and exit.

    fire calls a function first and complains about leftover flags afterwards, and reads `1e3` as a number where text
    is meant; so flags are checked here and each value is read by its annotation. Exit codes: the function's own, or
    0; 1 for :class:`InputError`; 2 for wrong usage.

    Args:
        function: a documented function whose parameters are annotated with str, int, float, bool or tuple.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("ignite").setLevel(logging.CRITICAL)  # its engines tell of starts and of exceptions told below
    arguments = sys.argv[1:]
    if "--help" in arguments or "-h" in arguments:
        print(_help(function))
        return
    _refuse_wrong_flags(function, arguments)
    hints = typing.get_type_hints(function)
    parsers = {name: functools.partial(_parse, hints[name], name) for name in inspect.signature(function).parameters}
    try:
        fire.Fire(
            SetParseFns(**parsers)(_guarded(function)),
            command=arguments,
            name=function.__name__,
            serialize=lambda _: "",
        )
    except _WrongUsageError as error:
        _stop(f"{function.__name__}: {error}", USAGE_ERROR)
    except InputError as error:
        _stop(str(error), INPUT_ERROR)


def _help(function: Callable[..., Any]) -> str:
    """Fire's help page without its short flags, which are refused here: `-o` would stand for `--overwrite`."""
    name = f"scripts.{function.__name__}"
    page = helptext.HelpText(function, FireTrace(function, name=name))
    return re.sub(r"(?m)^( +)-\w, --", r"\1--", page).replace(name, f"python -m {name}")


class _WrongUsageError(Exception):
    pass


def _guarded(function: Callable[..., int | None]) -> Callable[..., None]:
    @functools.wraps(function)
    def guarded(*positional: Any, **named: Any) -> None:
        try:
            status = function(*positional, **named)
        except InputError as error:
            _stop(str(error), INPUT_ERROR)
        except KeyboardInterrupt:
            _stop("interrupted", 130)
        except Exception as error:
            expected = as_input_error(error)
            if expected is None:
                raise
            _stop(str(expected), INPUT_ERROR)
        sys.exit(status or 0)

    return guarded


def _stop(message: str, status: int) -> typing.NoReturn:
    print(" ".join(message.split()), file=sys.stderr)
    sys.exit(status)


def _refuse_wrong_flags(function: Callable[..., Any], arguments: list[str]) -> None:
    """Unknown flags, missing and surplus positional arguments end the program with status 2."""
    parameters = inspect.signature(function).parameters
    required = [name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    positional, given, skip = 0, set(), False
    for number, argument in enumerate(arguments):
        if skip:
            skip = False
        elif is_flag(argument):
            name, equals, _ = argument.removeprefix("--").partition("=")
            name = name.replace("-", "_")
            known = name in parameters or (name.startswith("no") and name[2:] in parameters)
            if not known:
                flags = ", ".join("--" + each for each in parameters)
                _stop(f"{function.__name__}: no flag {argument.partition('=')[0]}; known: {flags}", USAGE_ERROR)
            given.add(name)
            following = arguments[number + 1] if number + 1 < len(arguments) else "--"
            skip = not equals and not is_flag(following)
        else:
            positional += 1
    missing = [name for name in required[positional:] if name not in given]
    if missing or positional > len(parameters):
        wanted = " ".join(name.upper() for name in required)
        _stop(f"{function.__name__}: wants {wanted}, got {positional} arguments; see --help", USAGE_ERROR)


def is_flag(argument: str) -> bool:
    """As fire sees it, which would take `-z 2` for a flag that it tells is unknown after the work is done."""
    return argument.startswith("--") or re.match("-[a-zA-Z]", argument) is not None


def _parse(hint: Any, name: str, text: str) -> Any:
    """The value that an annotation promises."""
    options = [
        each
        for each in (typing.get_args(hint) if typing.get_origin(hint) is not tuple else (hint,)) or (hint,)
        if each is not type(None)
    ]
    kind = options[0]
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if typing.get_origin(kind) is tuple:
            item = typing.get_args(kind)[0]
            return tuple(item(part) for part in text.strip("()[]").split(",") if part.strip())
        if kind is float:
            return float(text)
        value = Path(text) if kind is Path else kind(text)
    except (ValueError, KeyError) as error:
        raise _WrongUsageError(
            f"--{name} must be {getattr(kind, '__name__', kind)}, got {text!r}; see --help"
        ) from error
    if name == "seed" and int(text) < 0:
        raise InputError(f"--seed must be 0 or more, got {text}; leave it out for the default")
    return value
