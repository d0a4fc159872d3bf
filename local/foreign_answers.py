"""Answers that are not Google's own: of proxies, front ends, wrong endpoints. They say nothing about user or job.

Bodies as they are met: Squid's and nginx's pages, a captive portal, an ingress controller, a JSON gateway.
"""

from collections.abc import Iterator

from local.answer_rows import FAULT, FAULT_IN_DOUBT, IN_DOUBT, NOT_NOW, Row, Verdict, row
from local.scripted import Answer

_JSON = {"Content-Type": "application/json"}
_ELSEWHERE = {"Location": "https://portal.example/login"}


def bodies(status: int) -> dict[str, Answer]:
    """By kind, what may come with this status from somebody else."""
    other = 418 if status != 418 else 417
    return {
        "html": Answer(status, f"<html><title>{status}</title><h1>ERROR</h1>The requested URL …</html>".encode()),
        "empty": Answer(status),
        "text": Answer(status, b"upstream connect error or disconnect/reset before headers"),
        "object": Answer(status, {"message": "no Route matched with those values"}),
        "list": Answer(status, [], _JSON),
        "null": Answer(status, "null", _JSON),
        "number": Answer(status, str(status), _JSON),
        "other-code": Answer(status, {"error": {"code": other, "message": "denied", "status": "PERMISSION_DENIED"}}),
        "no-code": Answer(status, {"error": {"message": "denied", "status": "PERMISSION_DENIED"}}),
        "word": Answer(status, {"error": "forbidden"}),
        "null-error": Answer(status, {"error": None}),
        "list-of-words": Answer(status, ["error"]),
        "cut-off": Answer(status, f'{{"error": {{"code": {status}, "message": "den', _JSON),
        "not-utf-8": Answer(status, b'{"error": "\xff\xfe"}', _JSON),
    }


_KINDS = tuple(bodies(200))
_FEW = ("html", "empty", "object", "other-code")
_REFUSALS = (400, 401, 403, 404, 405, 407, 409, 410, 411, 412, 413, 421, 451)


def _rows(statuses: tuple[int, ...], kinds: tuple[str, ...], verdict: Verdict) -> Iterator[Row]:
    for status in statuses:
        for kind in kinds:
            yield row(f"foreign {status} {kind}", bodies(status)[kind], verdict)


def _redirects() -> Iterator[Row]:
    for status in (301, 302, 303, 307, 308):
        yield row(f"foreign {status} redirect", Answer(status, b"<html>Moved</html>", _ELSEWHERE), FAULT)
    yield row("foreign 300 html", bodies(300)["html"], FAULT)
    yield row("foreign 304 empty", bodies(304)["empty"], FAULT)


TO_RETRY: tuple[Row, ...] = (
    *_rows((200,), _KINDS, FAULT_IN_DOUBT),
    *_rows((201, 202, 206), _FEW, FAULT_IN_DOUBT),
    row("foreign 204 empty", Answer(204), FAULT_IN_DOUBT),
    *_redirects(),
    *_rows((400, 403, 404, 409), _KINDS, FAULT),
    *_rows(tuple(status for status in _REFUSALS if status not in (400, 403, 404, 409)), _FEW, FAULT),
    *_rows((429,), _KINDS, NOT_NOW),
    *_rows((408, 499, 500, 501, 502, 503, 504, 511, 520, 599), _FEW, IN_DOUBT),
)

TO_REFRESH: tuple[Row, ...] = (
    *_rows((200, 400, 401, 403), _KINDS, FAULT),
    *_rows((404, 405, 407, 411, 413, 421, 451), _FEW, FAULT),
    *_redirects(),
    *_rows((408, 429, 500, 502, 503, 504), (*_FEW, "word"), NOT_NOW),
)

# A look changes nothing, so nothing of it is in doubt.
TO_LOOK: tuple[Row, ...] = (
    *_rows((200,), ("html", "empty", "text", "cut-off"), FAULT),
    *_redirects(),
    *_rows((400, 403, 404, 409), _KINDS, FAULT),
    *_rows((401, 407, 410), _FEW, FAULT),
    *_rows((408, 429, 499, 500, 502, 503, 504), _FEW, NOT_NOW),
)
