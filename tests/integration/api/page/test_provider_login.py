"""Login at an identity provider of another site, in a real browser: the session's cookie is sent at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.benchmarks.receivers import free_port
from tests.integration.api.access.identity_provider import CLIENT, SECRET, IdentityProvider
from tests.integration.api.page.conftest import serving

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.api.arrivals import Arrivals
    from tests.integration.api.browser import Tab


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
        tab.open(f"{address}/studies/{study}")
        tab.evaluate("document.querySelector('a[href^=\"/login/provider\"]').click()")
        tab.wait("document.getElementById('back') !== null")
        tab.evaluate("document.getElementById('back').click()")
        tab.wait(f"location.pathname === '/studies/{study}' && document.readyState === 'complete'")

        assert "The lungs are clear." in tab.evaluate("document.querySelector('.report').innerText")
        assert not tab.evaluate("document.cookie")
        assert tab.errors == []
    idp.shutdown()
    idp.server_close()
