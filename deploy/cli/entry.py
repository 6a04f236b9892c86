"""Run `prelim`; a health check of the listener, which runs every few seconds, imports almost nothing."""

from __future__ import annotations

import sys


def main() -> None:
    """Run a command."""
    if sys.argv[1:] == ["ready", "listener"]:
        from deploy.launcher import listener_ready

        sys.exit(0 if listener_ready.is_ready(listener_ready.data_dir()) else 1)
    from deploy.cli import app

    app.main()


if __name__ == "__main__":
    main()
