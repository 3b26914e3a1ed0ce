"""``sluice completion``: the script that makes a shell complete ``sluice``."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

from sluice.cli.output import emit

SHELLS = ("bash", "zsh", "fish")


HELP = """Print the script for a shell: bash, zsh or fish.

\b
  bash   source <(sluice completion bash)       in ~/.bashrc
  zsh    source <(sluice completion zsh)        in ~/.zshrc, after compinit
  fish   sluice completion fish | source        in ~/.config/fish/config.fish

Names of generators, artifacts and namespaces are those of the cluster; where it does not answer
at once, none are offered.
"""


@click.command("completion", help=HELP)
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the script of a shell."""
    completer = get_completion_class(shell)
    assert completer is not None
    root = click.get_current_context().find_root().command
    # The base's, as that of bash looks for a bash and warns of its version.
    emit(ShellComplete.source(completer(root, {}, "sluice", "_SLUICE_COMPLETE")).encode())
