"""Commands that act as a DICOM client (SCU), and the conformance statement."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from deploy.cli.help_text import Command
from deploy.cli.startup import load_settings

if TYPE_CHECKING:
    from dicom_listener.scu.send import Node

app = typer.Typer()
command = partial(app.command, cls=Command, rich_help_panel="DICOM")

Files = Annotated[list[Path], typer.Argument(metavar="PATH...", help="DICOM files, or folders of DICOM files.")]
Host = Annotated[str | None, typer.Option(help="Host of the remote node.", show_default="local listener")]
NodePort = Annotated[
    int | None, typer.Option("--port", help="Port of the remote node.", show_default="PRELIM_DICOM_PORT")
]
Called = Annotated[str | None, typer.Option(help="AE title of the remote node.", show_default="PRELIM_AE_TITLE")]
Calling = Annotated[str, typer.Option(help="AE title of this client.")]
Tls = Annotated[bool | None, typer.Option("--tls/--no-tls", help="Use TLS.", show_default="as the local listener")]
Authority = Annotated[
    Path | None,
    typer.Option("--ca", help="PEM certificate of the CA that signed the node's certificate; implies --tls."),
]
Certificate = Annotated[
    Path | None,
    typer.Option(
        "--cert",
        help="PEM certificate of this client, for nodes that require one; implies --tls.",
        show_default="PRELIM_TLS_CERTIFICATE",
    ),
]
Key = Annotated[Path | None, typer.Option("--key", help="PEM key of --cert, unless it is in the same file.")]
ListenPort = Annotated[int | None, typer.Option(help="Accept the result on a new association to this port.")]


@command()
def send(
    paths: Files,
    host: Host = None,
    port: NodePort = None,
    called: Called = None,
    calling: Calling = "PRELIM_SCU",
    tls: Tls = None,
    ca: Authority = None,
    cert: Certificate = None,
    key: Key = None,
) -> None:
    """Send DICOM files by C-STORE; exit with 1 if any file was not accepted, or none was sent."""
    from dicom_listener.scu import send

    raise typer.Exit(send.send(paths, _node(host, port, called, calling, _Tls(tls, ca, cert, key))))


@command()
def echo(
    host: Host = None,
    port: NodePort = None,
    called: Called = None,
    calling: Calling = "PRELIM_SCU",
    tls: Tls = None,
    ca: Authority = None,
    cert: Certificate = None,
    key: Key = None,
) -> None:
    """Verify a DICOM node by C-ECHO; exit with 1 if it fails."""
    from dicom_listener.scu import send

    raise typer.Exit(send.echo(_node(host, port, called, calling, _Tls(tls, ca, cert, key))))


@command()
def commit(
    paths: Files,
    host: Host = None,
    port: NodePort = None,
    called: Called = None,
    calling: Calling = "PRELIM_SCU",
    tls: Tls = None,
    ca: Authority = None,
    cert: Certificate = None,
    key: Key = None,
    listen_port: ListenPort = None,
) -> None:
    """Request storage commitment for files sent earlier; exit with 1 if any file is not committed."""
    from dicom_listener.scu import commit

    node = _node(host, port, called, calling, _Tls(tls, ca, cert, key))
    raise typer.Exit(commit.commit(paths, node, listen_port=listen_port))


@command()
def conformance() -> None:
    """Print the DICOM conformance statement of this configuration."""
    from dicom_listener.conformance import statement

    print(statement(load_settings()))  # noqa: T201 - raw Markdown, without rich's wrapping


class _Tls(NamedTuple):
    """TLS options of a command; *wanted* is None if neither --tls nor --no-tls is given."""

    wanted: bool | None
    ca: Path | None
    certificate: Path | None
    key: Path | None

    def is_used(self, *, by_default: bool) -> bool:
        """Return whether to use TLS; raises BadParameter if the options contradict each other."""
        if self.key and not self.certificate:
            raise typer.BadParameter("--key needs --cert")
        files = self.ca or self.certificate
        if files and self.wanted is False:
            raise typer.BadParameter("--no-tls contradicts --ca and --cert")
        return bool(files) or (by_default if self.wanted is None else self.wanted)


def _node(host: str | None, port: int | None, called: str | None, calling: str, tls: _Tls) -> Node:
    from deploy.launcher.processes import loopback_address
    from dicom_listener.receive.tls import client_context
    from dicom_listener.scu.send import Node

    settings = load_settings()
    by_default = host is None and settings.dicom.tls_certificate is not None
    context = None
    if tls.is_used(by_default=by_default):
        context = client_context(settings, tls.ca, certificate=tls.certificate, key=tls.key)
    return Node(
        host=host or loopback_address(settings.dicom.dicom_host),
        port=port or settings.dicom.dicom_port,
        called=called or settings.dicom.ae_title,
        calling=calling,
        tls=context,
    )
