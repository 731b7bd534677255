"""This module makes the scripts that complete a command line in bash, zsh and fish."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator

from llmux.command.setup.described_line import (
    DIRECTORY,
    FILE,
    MODEL,
    CommandWords,
    OptionWords,
    Values,
)

__all__ = ["SCRIPTS"]

_SKELETON_OF_BASH = r"""# bash completion for llmux, from "llmux completion bash"
_llmux_models() {
    llmux completion models "$config" 2>/dev/null
}

_llmux_complete() {
    # Words that begin with what is there, one a line: names may hold blanks.
    local IFS=$'\n' word prefix=
    # Where a colon breaks words, bash has taken what stands before it already.
    if [[ $cur == *:* && $COMP_WORDBREAKS == *:* ]]; then
        prefix=${cur%"${cur##*:}"}
    fi
    while read -r word; do
        [[ $word && $word == "$cur"* ]] && COMPREPLY+=("$(printf %q "${word#"$prefix"}")")
    done <<<"$1"
}

_llmux_value() {
    case $1 in
        file) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
        directory) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
        model) _llmux_complete "$(_llmux_models)" ;;
        *) _llmux_complete "$1" ;;
    esac
}

_llmux() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local command= config=config.yaml i word
    COMPREPLY=()
    # Bash breaks words at "=" and ":"; what belongs to one word is put together again.
    local words=() line=${COMP_LINE:0:COMP_POINT}
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    cur=${words[-1]} prev=${words[-2]-}
    if [[ $cur == --*=* ]]; then
        prev=${cur%%=*} cur=${cur#*=}
    fi
    for ((i = 1; i < ${#words[@]} - 1; i++)); do
        word=${words[i]}
        case "$command $word" in
            *" -c" | *" --config") config=${words[i + 1]} ;;
            *" --config="*) config=${word#*=} ;;
        esac
        case "$command $word" in
            @SKIP@) ((i++)) ;;
            " "-*) ;;
            " "*) [[ $command ]] || command=$word ;;
        esac
    done
    case "$command $prev" in
@VALUES@
    esac
    if [[ $cur == -* ]]; then
        case $command in
@OPTIONS@
        esac
        return
    fi
    case $command in
@ARGUMENTS@
    esac
}

complete -F _llmux llmux
"""


def bash(line: CommandWords) -> str:
    """Return the script for bash."""
    everything = (line, *line.commands)
    skipped = [
        shlex.quote(f"{command.name} {name}")
        for command in everything
        for option in command.options
        if option.needs_value
        for name in option.names
    ]
    values = []
    for command in everything:
        for option in command.options:
            if option.values:
                action = f"_llmux_value {_bash_value(option.values)}; return"
                values.append(f"{_alternatives(command, option)}) {action} ;;")
            elif option.needs_value:
                values.append(f"{_alternatives(command, option)}) return ;;")
    options = [
        f"{shlex.quote(command.name)}) _llmux_complete {_lines(_names(command))} ;;"
        for command in everything
        if command.options
    ]
    arguments = [f"'') _llmux_complete {_lines(each.name for each in line.commands)} ;;"]
    arguments += [
        f"{shlex.quote(command.name)}) _llmux_value {_bash_value(command.arguments)} ;;"
        for command in line.commands
        if command.arguments
    ]
    return (
        _SKELETON_OF_BASH.replace("@SKIP@", " | ".join(skipped))
        .replace("@VALUES@", _indented(values, 8))
        .replace("@OPTIONS@", _indented(options, 12))
        .replace("@ARGUMENTS@", _indented(arguments, 8))
    )


def _alternatives(command: CommandWords, option: OptionWords) -> str:
    return " | ".join(shlex.quote(f"{command.name} {name}") for name in option.names)


def _names(command: CommandWords) -> Iterator[str]:
    for option in command.options:
        yield from option.names


def _bash_value(values: Values) -> str:
    return values if isinstance(values, str) else _lines(values or ())


def _lines(words: Iterable[str]) -> str:
    return "$'" + "\\n".join(words) + "'"


def _indented(lines: Iterable[str], by: int) -> str:
    return "\n".join(" " * by + line for line in lines)


# ----------------------------------------------------------------------- zsh

_ZSH_KINDS = {FILE: "_files", DIRECTORY: "_files -/", MODEL: "_llmux_models"}

_SKELETON_OF_ZSH = r"""#compdef llmux
# zsh completion for llmux, from "llmux completion zsh"
_llmux_models() {
    local -a names
    local config=${opt_args[--config]:-${opt_args[-c]:-config.yaml}}
    names=("${(@f)$(llmux completion models "$config" 2>/dev/null)}")
    compadd -a names
}

_llmux() {
    local curcontext=$curcontext state line
    typeset -A opt_args
    local -a commands
    commands=(
@COMMANDS@
    )
    _arguments -C \
@GLOBAL@
        '1:command:->command' \
        '*::argument:->argument'
    case $state in
        command) _describe command commands ;;
        argument)
            case $line[1] in
@EACH@
            esac
            ;;
    esac
}

if [[ $funcstack[1] == _llmux ]]; then
    _llmux "$@"
else
    compdef _llmux llmux
fi
"""


def zsh(line: CommandWords) -> str:
    """Return the script for zsh."""
    commands = [
        shlex.quote(
            f"{command.name}:{command.about}".replace(":", r"\:").replace(r"\:", ":", 1)
        )
        for command in line.commands
    ]
    each = []
    for command in line.commands:
        specifications = [_zsh_option(option) for option in command.options]
        if command.arguments:
            specifications.append(f"'*:argument:{_zsh_action(command.arguments)}'")
        joined = " \\\n    ".join(["_arguments", *specifications])
        each += [f"{command.name})", *_indented(joined.split("\n"), 4).split("\n"), "    ;;"]
    return (
        _SKELETON_OF_ZSH.replace("@COMMANDS@", _indented(commands, 8))
        .replace("@GLOBAL@", _indented((f"{_zsh_option(o)} \\" for o in line.options), 8))
        .replace("@EACH@", _indented(each, 16))
    )


def _zsh_option(option: OptionWords) -> str:
    about = re.sub(r"([\[\]:\\])", r"\\\1", option.about)
    value = ""
    if option.takes_value:
        colons = ":" if option.needs_value else "::"
        value = f"{colons}value:{_zsh_action(option.values)}"
    names = []
    for name in option.names:
        equals = "=" if option.takes_value and name.startswith("--") else ""
        if equals and not option.needs_value:
            equals = "=-"
        names.append(name + equals)
    excluded = f"({' '.join(option.names)})"
    if len(names) == 1:
        return shlex.quote(f"{excluded}{names[0]}[{about}]{value}")
    return f"{shlex.quote(excluded)}{{{','.join(names)}}}{shlex.quote(f'[{about}]{value}')}"


def _zsh_action(values: Values) -> str:
    if isinstance(values, tuple):
        return f"({' '.join(values)})"
    return _ZSH_KINDS[values] if values else " "


# ---------------------------------------------------------------------- fish

_FISH_MODELS = "(llmux completion models 2>/dev/null)"


def fish(line: CommandWords) -> str:
    """Return the script for fish."""
    lines = [
        '# fish completion for llmux, from "llmux completion fish"',
        "complete -c llmux -f",
    ]
    here = "__fish_use_subcommand"
    lines += [_fish_option(option, here) for option in line.options]
    for command in line.commands:
        lines.append(
            f"complete -c llmux -n {here} -a {_fish(command.name)} -d {_fish(command.about)}"
        )
    for command in line.commands:
        there = f"__fish_seen_subcommand_from {command.name}"
        lines += [_fish_option(option, there) for option in command.options]
        if command.arguments:
            lines.append(
                f"complete -c llmux -n {_fish(there)} {_fish_values(command.arguments)}"
            )
    return "\n".join(lines) + "\n"


def _fish_option(option: OptionWords, where: str) -> str:
    words = ["complete -c llmux -n", _fish(where)]
    for name in option.names:
        words.append(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}")
    if option.needs_value:
        words.append("-r" if option.values in (None, FILE) else "-x")
    if option.takes_value and option.values:
        words.append(_fish_values(option.values))
    words.append(f"-d {_fish(option.about)}")
    return " ".join(words)


def _fish_values(values: Values) -> str:
    if values == FILE:
        return "-F"
    if values == DIRECTORY:
        return "-a '(__fish_complete_directories)'"
    return f"-a {_fish(_FISH_MODELS if values == MODEL else ' '.join(values or ()))}"


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SCRIPTS: dict[str, Callable[[CommandWords], str]] = {"bash": bash, "fish": fish, "zsh": zsh}
