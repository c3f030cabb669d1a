"""lab completion: print the shell's completion script.

The script, for bash, zsh or fish, completes commands, options, recipes, fields, values and runs.
"""

from __future__ import annotations

import argparse

EXAMPLE = "source <(lab completion bash)"
ORDER = 210

_BASH = """\
_lab() {
    local line
    COMPREPLY=()
    local current="${COMP_LINE:0:COMP_POINT}"
    local words; read -ra words <<< "$current"
    [[ "$current" == *[[:space:]] ]] && words+=("")
    local last="${words[${#words[@]}-1]}"
    while IFS= read -r line; do
        COMPREPLY+=("${line#"${last%"${last##*[:=]}"}"}")
    done < <(lab completion --words "${words[@]:1}" 2>/dev/null)
    [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *[=/] ]] && compopt -o nospace
    [[ ${#COMPREPLY[@]} -eq 0 ]] && compopt -o default
    return 0
}
complete -F _lab lab
"""
_ZSH = """\
#compdef lab
_lab() {
    local -a found open closed
    found=("${(@f)$(lab completion --words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    open=(${(M)found:#*[=/]}) closed=(${found:#*[=/]})
    (( $#open )) && compadd -S '' -- $open
    (( $#closed )) && compadd -- $closed
    (( $#open + $#closed )) || _files
}
compdef _lab lab
"""
_FISH = """\
complete -c lab -a '(lab completion --words (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", nargs="?", choices=tuple(SCRIPTS), help="print the script of this shell")
    parser.add_argument("--words", nargs=argparse.REMAINDER, help="print what the last of these words could become")
    parser.epilog = (
        "bash: echo 'source <(lab completion bash)' >> ~/.bashrc\n"
        "zsh:  echo 'source <(lab completion zsh)' >> ~/.zshrc   (after compinit)\n"
        "fish: lab completion fish > ~/.config/fish/completions/lab.fish"
    )


def run(arguments: argparse.Namespace) -> int:
    from lab.config.words import candidates
    from lab.errors import UserError

    if arguments.words is not None:
        print("\n".join(candidates(arguments.words)))
        return 0
    if arguments.shell is None:
        raise UserError(f"say which shell: {', '.join(SCRIPTS)}.")
    print(SCRIPTS[arguments.shell], end="")
    return 0
