"""Every documented answer of OAuth's token endpoint to a refresh, and its verdict by the program's contract.

https://www.rfc-editor.org/rfc/rfc6749#section-5.2, https://developers.google.com/identity/protocols/oauth2/web-server,
https://developers.google.com/identity/protocols/oauth2#expiration
"""

from collections.abc import Iterator

from local import foreign_answers
from local.answer_rows import FAULT, NOT_NOW, Row, Verdict, rejected, row
from local.grants import MARK, SCOPE, oauth_error
from local.scripted import Answer

TOKEN = f"{MARK}-access-token"
INVALID_GRANT = rejected("REAUTHORIZATION_REQUIRED", "INVALID_GRANT")
ADMIN_POLICY = rejected("REAUTHORIZATION_REQUIRED", "ADMIN_POLICY")
NO_SCOPE = rejected("REAUTHORIZATION_REQUIRED", "NO_SCOPE")
USABLE = Verdict("retried")


def token(**changes: object) -> Answer:
    """A token; None takes a field away."""
    content = {"access_token": TOKEN, "expires_in": 3599, "scope": SCOPE, "token_type": "Bearer"} | changes
    return Answer(200, {name: value for name, value in content.items() if value is not None})


def _tokens() -> Iterator[Row]:
    other = "https://www.googleapis.com/auth/userinfo.email"
    yield row("token", token(), USABLE)
    yield row("token, no scope told", token(scope=None), USABLE)
    yield row("token, empty scope", token(scope=""), USABLE)
    yield row("token, more scopes", token(scope=f"openid {SCOPE} {other}"), USABLE)
    yield row("token, another scope", token(scope=f"openid {other}"), NO_SCOPE)
    yield row("token, new refresh token", token(refresh_token=f"{MARK}-rotated"), USABLE)
    yield row("token, no type told", token(token_type=None), USABLE)
    for name, value in {"no": None, "empty": "", "number": 7, "two-line": f"{TOKEN}\nx", "other": "töken"}.items():
        yield row(f"{name} token", token(access_token=value), FAULT)
    yield row("huge token", token(access_token=f"{MARK}{'x' * 65_536}"), FAULT)
    yield row("token beside an error", token(error="server_error"), NOT_NOW)
    yield row("token beside another error", token(error="invalid_request"), FAULT)


def _transients() -> Iterator[Row]:
    for code in ("internal_failure", "server_error", "temporarily_unavailable", "rate_limit_exceeded"):
        for status in (400, 403, 500):
            yield row(f"{status} {code}", oauth_error(status, code), NOT_NOW)
        yield row(f"described as {code}", oauth_error(400, "invalid_request", code), NOT_NOW)
    for status in (408, 429, 500, 502, 503, 504):
        yield row(f"{status} invalid_grant", oauth_error(status, "invalid_grant"), NOT_NOW)
        yield row(f"{status} a word", oauth_error(status, "overloaded"), NOT_NOW)


def _grants() -> Iterator[Row]:
    descriptions = {
        "revoked": "Token has been expired or revoked.",
        "bad": "Bad Request",
        "deleted": "Account has been deleted",
        "disabled": "Account disabled",
        "malformed": "Malformed auth code.",
        "": "",
    }
    for name, description in descriptions.items():
        yield row(f"invalid_grant {name}".strip(), oauth_error(400, "invalid_grant", description), INVALID_GRANT)
    for subtype in ("invalid_rapt", "rapt_required"):
        answer = oauth_error(400, "invalid_grant", "reauth related error", error_subtype=subtype)
        yield row(f"invalid_grant {subtype}", answer, INVALID_GRANT)
    for status in (401, 403):
        yield row(f"{status} invalid_grant", oauth_error(status, "invalid_grant"), INVALID_GRANT)
    for status in (400, 401, 403):
        yield row(f"{status} admin_policy_enforced", oauth_error(status, "admin_policy_enforced"), ADMIN_POLICY)


# What is wrong with our client or our request; RFC 6749, and Google's own words.
_OURS = {
    "invalid_client": 401,
    "deleted_client": 401,
    "disabled_client": 401,
    "org_internal": 403,
    "invalid_request": 400,
    "invalid_scope": 400,
    "unsupported_grant_type": 400,
    "redirect_uri_mismatch": 400,
    "access_denied": 403,
    "a_word_nobody_has_listed": 400,
}


def _faults() -> Iterator[Row]:
    for code, status in _OURS.items():
        yield row(f"{status} {code}", oauth_error(status, code, "It says no."), FAULT)
    yield row("200 invalid_grant", oauth_error(200, "invalid_grant"), FAULT)
    yield row("302 invalid_grant", oauth_error(302, "invalid_grant"), FAULT)
    yield row("400 empty word", oauth_error(400, ""), FAULT)
    google = {"error": {"code": 403, "message": "The caller does not have permission", "status": "PERMISSION_DENIED"}}
    yield row("403 of a Google API", Answer(403, google), FAULT)


REFRESH: tuple[Row, ...] = (*_tokens(), *_transients(), *_grants(), *_faults(), *foreign_answers.TO_REFRESH)

# The refresh token is another client's, or this client may not refresh. Nobody's fault until this client has worked:
# on an instance that has got no token with it, and without a canary, FAULT; on one that has, OTHER_CLIENT.
UNAUTHORIZED_CLIENT = oauth_error(401, "unauthorized_client", "Unauthorized")
OTHER_CLIENT = rejected("REAUTHORIZATION_REQUIRED", "OTHER_CLIENT")
