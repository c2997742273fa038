"""Commands made of functions: options, configuration files, where each value came from."""

import dataclasses
import functools
import inspect
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from ndtool import console
from ndtool.cli.params import COMMON, GROUPS, Group, int_list, rate_list
from ndtool.config import BOARDS, find_config, load_config, load_recorded, read_toml
from ndtool.errors import ConfigError
from ndtool.options import WORD_OF

T = TypeVar("T")
_FROM_FILE: Final = "ndtool.from-file"  # in a context: table -> field -> value for that verb
_NOT_IN_FILES: Final = ("config", "json", "traceback")  # of this one call, or read before the file


def _parameter(name: str, kind: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def verb(
    *options: object, borrowed: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function `(own parameters, **values)`.

    The command has the function's own parameters, the fields of the option dataclasses `options`
    (defaults instances such as `TRAIN`) and the options every verb has. `values` are the fields.

    In a configuration file, the fields of an option dataclass are in the table of the verb that
    they are of; the table of this verb wins over those. `borrowed` are own parameters that may
    also stand in another verb's table: parameter -> that table.
    """
    groups = [group for group in GROUPS if any(group.defaults is o for o in options)]

    def read_config(ctx: typer.Context, path: Path | None) -> Path | None:
        if not ctx.resilient_parsing:  # shell completion
            _set_defaults(ctx, path, groups, borrowed)
        return path

    config = Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            is_eager=True,  # before the options whose defaults it sets
            callback=read_config,
            help="Options from a TOML file. [ndtool.toml]",
        ),
    ]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for p in inspect.signature(function).parameters.values()
            if p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        fields = {
            name: _parameter(name, kind, getattr(group.defaults, name))
            for group in groups
            for name, kind in group.words.items()
        }
        shared = [_parameter(name, *row) for name, row in COMMON.items()]
        everything = [*own, *fields.values(), _parameter("config", config, None), *shared]

        @functools.wraps(function)
        def command(**values: Any) -> None:
            mode = {name: values.pop(name) for name in ("config", *COMMON)}
            if mode["no_color"]:
                os.environ["NO_COLOR"] = "1"
            console.configure(
                quiet=mode["quiet"],
                verbose=mode["verbose"],
                as_json=mode["as_json"],
                log_file=mode["log_file"],
            )
            _require_finite(values)
            function(**values)

        command.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined] # read by Typer
        command.__annotations__ = {p.name: p.annotation for p in everything}
        return command

    return decorate


def _require_finite(values: Mapping[str, object]) -> None:
    # Bounds do not bar them: `nan < 0` is false, and many options have no upper bound.
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            flag = f"--{WORD_OF.get(name, name).replace('_', '-')}"
            raise typer.BadParameter(f"{value} is not a finite number", param_hint=f"'{flag}'")


def _set_defaults(
    ctx: typer.Context, path: Path | None, groups: list[Group], borrowed: Mapping[str, str]
) -> None:
    """Make the values of the configuration file the defaults of this command.

    Raises:
        InputError, ConfigError: missing or unreadable, an unknown key, a value that its option
            does not take; all tables are checked, also those of other verbs.

    Boards in the file that -c names are the default of --boards.
    """
    found = path or find_config(Path.cwd())
    options = _options_of_verbs(ctx)
    if found is None or not options:
        return
    values = {
        table: {
            options[table][key].name: _checked(
                ctx, options[table][key], value, f"{table}.{key}", found
            )
            for key, value in rows.items()
        }
        for table, rows in load_config(found, options).items()
    }
    own = values.get(ctx.info_name or "", {})
    of_verb = {
        group.table: {
            field: value
            for field, value in (values.get(group.table, {}) | own).items()
            if field in group.words
        }
        for group in groups
    }
    merged = {
        field: values[table][field]
        for field, table in borrowed.items()
        if field in values.get(table, {})
    }
    if path is not None and BOARDS in read_toml(path):  # those of ndtool.toml are found without
        merged |= {BOARDS: str(path)}
        for group in groups:
            if BOARDS in group.words:
                of_verb[group.table] = {BOARDS: str(path)} | of_verb[group.table]
    for rows in of_verb.values():
        merged |= rows
    ctx.meta[_FROM_FILE] = of_verb
    ctx.default_map = merged | own


def _options_of_verbs(ctx: typer.Context) -> dict[str, dict[str, TyperOption]]:
    """Verb -> key of a configuration file -> option; empty where there is one command alone."""
    root = ctx.find_root().command
    if not isinstance(root, TyperGroup):
        return {}
    return {
        name: _options_by_key(command)
        for name, command in root.commands.items()
        if isinstance(command, TyperCommand)
    }


def _options_by_key(command: TyperCommand) -> dict[str, TyperOption]:
    """Key of a configuration file -> option: the long flag with `_`."""
    keys = {}
    for option in command.params:
        if isinstance(option, TyperOption):
            flag = next(word for word in option.opts if word.startswith("--"))
            keys[flag.removeprefix("--").replace("-", "_")] = option
    return {key: option for key, option in keys.items() if key not in _NOT_IN_FILES}


def _checked(
    ctx: typer.Context, option: TyperOption, value: object, key: str, path: Path
) -> object:
    """The value as the option's own type, as if it had been typed."""
    parser = option.type_descriptor.parameter_info.parser
    try:
        if isinstance(value, bool) != option.is_flag:
            kind = "true or false" if option.is_flag else "a value, not true or false,"
            raise typer.BadParameter(f"{kind} is needed")
        if isinstance(value, list) and parser not in (int_list, rate_list):
            raise typer.BadParameter("one value is needed, not a list")
        return option.process_value(ctx, value)
    except typer.BadParameter as problem:
        raise ConfigError(
            problem.message.removeprefix("Value error, ").rstrip("."),
            where=f"{path}: {key}",
            remedy="see --help for what this option takes",
            code="config.value",
        ) from None


def config_files(ctx: typer.Context) -> list[Path]:
    """The configuration files that options or boards of this command may be from."""
    found = (ctx.params.get("config"), find_config(Path.cwd()))
    return [path for path in found if path is not None]


def build(defaults: T, values: Mapping[str, Any]) -> T:
    """The option dataclass `defaults` with the fields that `values` names."""
    names = {f.name for f in dataclasses.fields(defaults)}  # type: ignore[arg-type] # a dataclass
    return dataclasses.replace(defaults, **{k: v for k, v in values.items() if k in names})  # type: ignore[type-var] # a dataclass


def build_part(
    ctx: typer.Context, defaults: T, values: Mapping[str, Any]
) -> tuple[T, dict[str, str]]:
    """The options of one verb inside `run`, and their origins.

    Two verbs may have a field of the same name (`seed`, `workers`): a flag sets both, a file sets
    each in the table of its verb.
    """
    (group,) = (g for g in GROUPS if g.defaults is defaults)
    given = {k: v for k, v in origins(ctx).items() if k in group.words and v == "flag"}
    file: Mapping[str, Any] = ctx.meta.get(_FROM_FILE, {}).get(group.table, {})
    typed = {field: values[field] for field in given}
    return build(defaults, {**file, **typed}), dict.fromkeys(file, "file") | given


def inherit(
    ctx: typer.Context, defaults: T, options: T, given: Mapping[str, str], config: Path
) -> tuple[T, dict[str, str]]:
    """The options of one verb and their origins, those that nobody gave taken from its run.

    Flag > file > what the run was made with > default: a stage that is repeated without its
    options would make another model of the same weights. Said where it is not the default.

    Args:
        defaults: tells the verb: EXPORT or CODEGEN.
        given: the origins of `options` (`origins`).
        config: config.toml of the run.

    Raises:
        ConfigError: a value in `config` that its option does not take.
    """
    (group,) = (g for g in GROUPS if g.defaults is defaults)
    wanted = [field for field in group.inherited if field not in given]
    known = _options_of_verbs(ctx).get(group.table, {})
    values, recorded, told = {}, {}, []
    for field, (value, origin) in load_recorded(config, group.table, wanted).items():
        key = WORD_OF.get(field, field)
        values[field] = _checked(ctx, known[key], value, f"{group.table}.{key}", config)
        recorded[field] = origin
        if values[field] != getattr(defaults, field):
            told.append(f"{key} {console.visible(str(values[field]))}")
    if told:
        console.info(f"{group.table}: {', '.join(told)} of this run")
    return build(options, values), {**given, **recorded}


def origins(ctx: typer.Context) -> dict[str, str]:
    """Option name -> `flag` or `file`; what is missing is a default."""
    words = {"COMMANDLINE": "flag", "DEFAULT_MAP": "file"}
    found = {}
    for key in ctx.params:
        source = ctx.get_parameter_source(key)
        if source is not None and source.name in words:
            found[key] = words[source.name]
    return found
