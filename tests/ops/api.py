"""The Data Portability API, as far as it answers without spending anything."""

from aiohttp import web

from local import google_errors
from local.http_server import HttpServer, HttpService
from local.scripted import Answer

_ACCESS = Answer(200, {"oneTimeResources": [], "timeBasedResources": ["myactivity.search"]})


class Api(HttpService):
    """Serves at `url` while entered. `answer` is one for all; without it: 401 to whoever shows no token."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.asked: list[str] = []  # the paths
        self._server = HttpServer(self._handle)

    @property
    def settings(self) -> dict[str, str]:
        """Of a function without the watch, that calls this API."""
        return {
            "DATA_PORTABILITY_API_ENDPOINT": self.url,
            "STARTED_TOPIC": "no-watch-started",
            "ENDED_TOPIC": "no-watch-ended",
        }

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.path)
        own = _ACCESS if "Authorization" in request.headers else google_errors.unauthenticated("CREDENTIALS_MISSING")
        answer = self.answer or own
        if isinstance(answer.body, bytes):
            return web.Response(status=answer.status, body=answer.body)
        return web.json_response(answer.body, status=answer.status)
