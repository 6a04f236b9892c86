"""Run `prelim`; a health check, which runs every few seconds, imports the standard library only."""

from __future__ import annotations

import sys


def main() -> None:
    """Run a command."""
    if sys.argv[1:2] in (["ready"], ["live"]):
        from deploy.launcher import role_probe

        # Anything else, as --help, is for the parser of commands.
        if len(sys.argv) == 3 and sys.argv[2] in role_probe.ROLES:  # noqa: PLR2004 - program, question, role
            sys.exit(role_probe.run(*sys.argv[1:]))
    from db import container_limits

    container_limits.limit_threads()
    from deploy.cli import app

    app.main()


if __name__ == "__main__":
    main()
