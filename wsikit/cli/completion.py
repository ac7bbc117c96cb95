"""`wsikit completion`: the script with which a shell completes verbs, options and their values."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = {"bash": "~/.bashrc", "zsh": "~/.zshrc", "fish": "~/.config/fish/config.fish"}
"""The file that each reads when it starts."""


@click.command(
    epilog="\b\nbash:  echo 'eval \"$(wsikit completion bash)\"' >> ~/.bashrc"
    "\nzsh:   echo 'eval \"$(wsikit completion zsh)\"' >> ~/.zshrc"
    "\nfish:  echo 'wsikit completion fish | source' >> ~/.config/fish/config.fish"
)
@click.argument("shell", type=click.Choice(list(SHELLS)))
def command(shell: str) -> int:
    """Print the script with which SHELL completes the verbs of wsikit, their options and values with the Tab key.

    Add it to the file that the shell reads when it starts, and open a new terminal:
    """
    from wsikit.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "wsikit", "_WSIKIT_COMPLETE").source())
    return 0
