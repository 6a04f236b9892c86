"""Login at an identity provider of another site, in a real browser: the session's cookie is sent at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from db.access import keys
from db.models import PageSession
from db.session import transaction
from tests.benchmarks.receivers import free_port
from tests.integration.api.access.identity_provider import CLIENT, SECRET, IdentityProvider
from tests.integration.api.page.conftest import serving
from tests.integration.api.page.test_browser import log_in

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.api.arrivals import Arrivals
    from tests.integration.api.browser import Tab


def sessions(url: str) -> dict[str, bool]:
    """Return for each kind of session whether it goes on."""
    with transaction(url) as session:
        return {"person" if row.person else "key": row.ended_at is None for row in session.query(PageSession)}


@pytest.mark.slow
def test_person_logs_in_at_the_provider_and_reads(
    tab: Tab, database_url: str, tmp_path: Path, arrivals: Arrivals
) -> None:
    study, port = arrivals.reported(), free_port()
    provider = IdentityProvider(claims={"roles": ["prelim.worklist", "prelim.reports", "prelim.images"]})
    idp = provider.serve()
    # For a browser localhost and 127.0.0.1 are two sites.
    address = f"http://localhost:{port}"
    settings = {
        "PRELIM_OIDC_ISSUER": "https://idp.example",
        "PRELIM_OIDC_JWKS": f"{provider.url}/keys",
        "PRELIM_OIDC_SCOPE_CLAIM": "roles",
        "PRELIM_OIDC_CLIENT_ID": CLIENT,
        "PRELIM_OIDC_CLIENT_SECRET": SECRET,
        "PRELIM_OIDC_AUTHORIZATION_URL": f"{provider.url}/authorize",
        "PRELIM_OIDC_TOKEN_URL": f"{provider.url}/token",
        "PRELIM_OIDC_REDIRECT_URL": f"{address}/login/callback",
    }
    with serving(database_url, tmp_path, port, **settings):
        with transaction(database_url) as session:
            key = keys.create(session, "reader before")
        log_in(tab, address, key)
        earlier = sessions(database_url)
        tab.open(f"{address}/login?to=/studies/{study}")
        tab.evaluate("document.querySelector('a[href^=\"/login/provider\"]').click()")
        tab.wait("document.getElementById('back') !== null")
        tab.evaluate("document.getElementById('back').click()")
        tab.wait(f"location.pathname === '/studies/{study}' && document.readyState === 'complete'")

        assert "The lungs are clear." in tab.evaluate("document.querySelector('.report').innerText")
        assert not tab.evaluate("document.cookie")
        assert tab.errors == []
        assert earlier == {"key": True}
        assert sessions(database_url) == {"key": False, "person": True}, "the next reader has not logged out"
    idp.shutdown()
    idp.server_close()
