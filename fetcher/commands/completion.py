"""`fetcher completion bash|zsh|fish`: a script that completes commands and options.

Generated from the tables of `commands` and `options`, so that it never lags behind them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.commands import COMMANDS, Command
from fetcher.configuration.kinds import quoted
from fetcher.configuration.options import OPTIONS, shown_by
from fetcher.configuration.values import nearest
from fetcher.errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterable

    from fetcher.commands import Environment
    from fetcher.configuration.kinds import Option


def run(args: Namespace, env: Environment) -> int:
    """Write the script for the named shell to stdout."""
    shells: dict[str, Callable[[], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
    if not args.words:
        raise UsageError("say for which shell: fetcher completion bash, zsh or fish")
    shell = args.words[0]
    if shell not in shells:
        hint = nearest(shell, shells) or "; there are bash, zsh and fish"
        raise UsageError(f"unknown shell {quoted(shell)}{hint}")
    env.stdout.write(shells[shell]())
    return 0


def _options(command: Command) -> tuple[Option, ...]:
    return shown_by(command.name, bare=command.bare)


def _flags(option: Option) -> list[str]:
    """Return the flags that a person would type: `--no-live`, since it is on by itself."""
    if option.is_switch and option.default:
        return [option.flag, f"--no-{option.name}"]
    return [option.flag, *([f"-{option.short}"] if option.short else [])]


def _words_after(command: Command) -> Iterable[str]:
    """Return the words that may follow a command."""
    if command.name == "help":
        return COMMANDS
    return command.words.split("|") if "|" in command.words else ()


# ---- bash --------------------------------------------------------------------------------

_BASH = """\
# bash completion for fetcher
_fetcher() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} command= i
    COMPREPLY=()
    # `--dest=x` comes as three words
    if [[ $cur == "=" ]]; then
        cur=
    elif [[ $prev == "=" ]]; then
        prev=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    case $prev in
{values}
    esac
    compopt +o default 2>/dev/null
    case $prev in
        {plain}) return ;;
    esac
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in
            {commands}) command=${{COMP_WORDS[i]}}; break ;;
        esac
    done
    case $command in
{cases}
        *) COMPREPLY=($(compgen -W "{words} --help --version" -- "$cur")) ;;
    esac
}}
complete -o default -F _fetcher fetcher
"""


def bash() -> str:
    """Return the script for bash 3.2 and newer."""
    valued = [option for option in OPTIONS if option.takes_value]
    values = [
        f"        {'|'.join(_flags(o))})"
        f' COMPREPLY=($(compgen -W "{" ".join(o.kind.choices)}" -- "$cur")); return ;;'
        for o in valued
        if o.kind.choices
    ]
    paths = [flag for o in valued if o.kind.completes for flag in _flags(o)]
    values.append(f"        {'|'.join(paths)}) return ;;")
    plain = [f for o in valued if not o.kind.choices and not o.kind.completes for f in _flags(o)]
    cases = [
        f"        {command.name})"
        f' COMPREPLY=($(compgen -W "{" ".join(_bash_words(command))}" -- "$cur")) ;;'
        for command in COMMANDS.values()
    ]
    return _BASH.format(
        values="\n".join(values),
        plain="|".join(plain),
        commands="|".join(COMMANDS),
        cases="\n".join(cases),
        words=" ".join(COMMANDS),
    )


def _bash_words(command: Command) -> list[str]:
    flags = [flag for option in _options(command) for flag in _flags(option) if len(flag) > 2]
    return [*_words_after(command), *flags, "--help"]


# ---- zsh ---------------------------------------------------------------------------------

_ZSH = """\
#compdef fetcher
# zsh completion for fetcher
_fetcher() {{
    local state line
    local -a commands
    commands=(
{commands}
    )
    _arguments -C '(- *)'{{-h,--help}}'[show help]' '(- *)--version[show the version]' \\
        '1:command:->command' '*::argument:->rest'
    case $state in
        command) _describe command commands ;;
        rest)
            case $words[1] in
{cases}
            esac ;;
    esac
}}
if [ "$funcstack[1]" = _fetcher ]; then _fetcher "$@"; else compdef _fetcher fetcher; fi
"""


def zsh() -> str:
    """Return the script for zsh: autoloaded from $fpath, or sourced."""
    commands = [f"        {_quote(f'{c.name}:{c.summary}')}" for c in COMMANDS.values()]
    return _ZSH.format(
        commands="\n".join(commands),
        cases="\n".join(_zsh_case(command) for command in COMMANDS.values()),
    )


def _zsh_case(command: Command) -> str:
    specs = [spec for option in _options(command) for spec in _zsh_specs(option)]
    words = " ".join(_words_after(command))
    specs += [_quote(f"1:word:({words})")] if words else []
    specs += ["'(-h --help)'{-h,--help}'[show help]'"]
    joined = " \\\n                    ".join(specs)
    return f"                {command.name}) _arguments \\\n                    {joined} ;;"


def _zsh_specs(option: Option) -> list[str]:
    text = f"[{_escape(option.help, '[]:')}]"
    many = "*" if option.repeatable or not (option.takes_value or option.is_switch) else ""
    if option.kind.choices:
        text += f":{option.name}:({' '.join(option.kind.choices)})"
    elif option.kind.completes:
        text += f":{option.name}:{'_files' if option.kind.completes == 'file' else '_files -/'}"
    elif option.takes_value:
        text += f":{_escape(option.kind.metavar, ':')}: "
    return [_quote(f"{many}{flag}{text}") for flag in _flags(option)]


# ---- fish --------------------------------------------------------------------------------


def fish() -> str:
    """Return the script for fish."""
    lines = [
        "# fish completion for fetcher",
        "complete -c fetcher -f",
        "complete -c fetcher -s h -l help -d 'show help'",
        "complete -c fetcher -n __fish_use_subcommand -l version -d 'show the version'",
    ]
    for command in COMMANDS.values():
        lines.append(
            f"complete -c fetcher -n __fish_use_subcommand -a {command.name}"
            f" -d {_quote(command.summary, fish=True)}"
        )
        seen = f"complete -c fetcher -n '__fish_seen_subcommand_from {command.name}'"
        words = " ".join(_words_after(command))
        lines += [f"{seen} -a {_quote(words, fish=True)}"] if words else []
        lines += [f"{seen}{_fish_spec(option)}" for option in _options(command)]
    return "\n".join(lines) + "\n"


def _fish_spec(option: Option) -> str:
    short = f" -s {option.short}" if option.short else ""
    name = f"no-{option.name}" if option.is_switch and option.default else option.name
    spec = f"{short} -l {name} -d {_quote(option.help, fish=True)}"
    if option.kind.choices:
        return f"{spec} -x -a {_quote(' '.join(option.kind.choices), fish=True)}"
    if option.kind.completes:
        what = "__fish_complete_directories" if option.kind.completes == "folder" else ""
        return f"{spec} -x -a '({what})'" if what else f"{spec} -r -F"
    return f"{spec} -x" if option.takes_value else spec


def _quote(text: str, *, fish: bool = False) -> str:
    """Return `text` in single quotes of a POSIX shell, or of fish."""
    if fish:
        return "'" + _escape(text, "'\\") + "'"
    return "'" + text.replace("'", "'\\''") + "'"


def _escape(text: str, characters: str) -> str:
    return "".join(f"\\{char}" if char in characters else char for char in text)
