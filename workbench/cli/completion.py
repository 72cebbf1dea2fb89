"""`vssm completion SHELL`: what makes a shell complete commands, options and file names."""

from jsonargparse import ArgumentParser, Namespace


def parser() -> ArgumentParser:
    """Its options."""
    made = ArgumentParser(description="Print what makes a shell complete commands and options.")
    made.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="whose words it is in")
    return made


def command(args: Namespace) -> int:
    """Print the script."""
    import shtab

    from workbench import cli

    whole = ArgumentParser("vssm")
    commands = whole.add_subcommands()
    for name, text in cli.commands().items():
        commands.add_subcommand(name, cli.parser(name), help=text)
    print(shtab.complete(whole, args.shell))
    return 0
