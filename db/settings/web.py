"""Settings of the API and the page."""

from ipaddress import ip_network
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from db.settings.section import Port, Section

#: https, or http on loopback: codes and tokens are sent there.
OIDC_SITE = r"^(https://[^/\s]+|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?)"
OIDC_URL = rf"{OIDC_SITE}(/\S*)?$"


class Api(Section):
    """API and page."""

    api_host: str = Field(default="127.0.0.1", description="Address that the API and the page bind to.")
    api_port: Port = Field(default=8080, description="TCP port of the API and the page.")
    api_processes: int = Field(
        default=1, ge=1, le=64, description="Processes of the API; each has 10 database connections."
    )
    trusted_proxies: str = Field(
        default="127.0.0.1, ::1",
        description="Proxies of which X-Forwarded-For and X-Forwarded-Proto are used: addresses, or networks of proxies"
        " only, with commas. Never a network that has clients: each of them could name any address. Limits of logins"
        " and the audit log have the address that such a proxy names; empty: none is used.",
    )
    requests_per_minute: int = Field(default=0, ge=0, description="Maximum requests of a key or person; 0: no limit.")
    failed_logins_per_minute: int = Field(
        default=30, ge=0, description="Maximum failed logins of an address; further ones are 429. 0: no limit."
    )
    metrics_access: Literal["open", "key"] = Field(
        default="open",
        description="`key`: `/metrics` needs a key with the scope `metrics`; its figures name no patient.",
    )
    oidc_issuer: str | None = Field(None, description="Issuer of OpenID Connect tokens; unset: only keys are accepted.")
    oidc_audience: str | None = Field(None, description="Audience that a token must be issued for.")
    oidc_jwks: str | None = Field(None, description="File or https URL of the issuer's JSON Web Key Set.")
    oidc_scope_claim: str = Field(default="scope", description="Claim with the scopes, as `prelim.reports`.")
    oidc_ae_titles_claim: str | None = Field(
        None, description="Claim with the AE titles whose studies a person may see; unset: all."
    )
    oidc_client_id: str | None = Field(
        None,
        description="Client of the page at the provider, at which people then log in; needs the next three settings.",
    )
    oidc_authorization_url: str | None = Field(
        None, pattern=OIDC_URL, description="The provider's authorization endpoint."
    )
    oidc_token_url: str | None = Field(None, pattern=OIDC_URL, description="The provider's token endpoint.")
    oidc_redirect_url: str | None = Field(
        None, pattern=rf"{OIDC_SITE}/login/callback$", description="This page's address with /login/callback."
    )
    oidc_client_secret: SecretStr | None = Field(None, description="Secret of the client; unset: a public client.")
    oidc_login_scope: str = Field(
        default="openid",
        pattern=r"^openid( [!-~]+)*$",
        description="Scopes that a login requests; `openid` is the first.",
    )
    drafts: Literal["shown", "after_images", "after_impression"] = Field(
        default="shown",
        description="Moment at which a reader gets the text of a draft: at once, after having seen images of the study,"
        " or after having stored an own impression. Readers miss what a draft misses if they read it first.",
    )
    viewer_url: str | None = Field(
        None,
        pattern=r"^https?://[^{}\s]+(\{(study_instance_uid|accession_number)\}[^{}\s]*)+$",
        description="Address of a study in the site's viewer, with {study_instance_uid} or {accession_number}; the page"
        " of a study links to it.",
    )
    show_regions: bool = Field(default=False, description="Draw regions of affirmed findings on images.")

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, given: str) -> str:
        for part in filter(None, map(str.strip, given.split(","))):
            # Every client could name another address as its own.
            if ip_network(part).prefixlen == 0:
                raise ValueError("expected the addresses of proxies, not all addresses")
        return given

    @model_validator(mode="after")
    def _check_login(self) -> Self:
        needed = ("oidc_issuer", "oidc_jwks", "oidc_authorization_url", "oidc_token_url", "oidc_redirect_url")
        missing = [f"PRELIM_{name.upper()}" for name in needed if getattr(self, name) is None]
        if self.oidc_client_id is not None and missing:
            raise ValueError(f"PRELIM_OIDC_CLIENT_ID needs {', '.join(missing)}, too")
        return self
