"""The simulator itself: an account, its API and its file host on loopback ports.

Owns the ports, the way from a request to its answer, and what scripts call. Prints and logs
nothing.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Self

from aiohttp import web

from fetcher.simulator import api, host, submit
from fetcher.simulator.log import SimRequest
from fetcher.simulator.script import Script
from fetcher.simulator.sender import Answer, ScriptedResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from fetcher.simulator.faults import Fault, Kind

_BASE = "/api/v1"
_LOOPBACK = "127.0.0.1"
_SHUTDOWN_S = 0.05  # answers still under way are dropped: a test has seen what it wanted
_HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Sign in</body></html>"


class Simulator(Script):
    """The API and its file host while the `async with` lasts.

    `seed`: of ids and contents. `key`: the only right one; None takes any that is not empty.
    `port`: of the API, 0 any free one. `started_at`: the simulated time at the start, seconds
    since the epoch; None: now. `speed`: simulated seconds in a real one.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        key: str | None = None,
        port: int = 0,
        started_at: float | None = None,
        speed: float = 1.0,
    ) -> None:
        super().__init__(seed, time.time() if started_at is None else started_at, speed)
        self.key = key
        self.api_url = ""
        self.host_url = ""
        self.mirror_url = ""
        self._port = port
        self._runners: list[web.ServerRunner] = []
        self._count = 0
        self._list_count = 0

    async def __aenter__(self) -> Self:
        try:
            self.api_url = await self._listen(self._on_api, self._port) + _BASE
            self.host_url = await self._listen(self._on_host, 0)
            self.mirror_url = await self._listen(self._on_host, 0)
        except BaseException:
            await self._stop()
            raise
        self.links.host_url = self.host_url
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop()

    async def run_forever(self) -> None:
        """Serve until cancelled."""
        await asyncio.Event().wait()

    async def _listen(
        self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], port: int
    ) -> str:
        server = web.Server(handler, handler_cancellation=True)
        runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, _LOOPBACK, port, backlog=1024)
        await site.start()
        return f"http://{_LOOPBACK}:{site.port}"

    async def _stop(self) -> None:
        await asyncio.gather(*(runner.cleanup() for runner in self._runners))
        self._runners.clear()

    # ---- from request to answer --------------------------------------------------------

    async def _on_api(self, request: web.BaseRequest) -> web.StreamResponse:
        kind, job = _api_kind(request.method, request.raw_path)
        seen = self._seen(request, "api", kind, job)
        fault = self.faults.take(seen)
        await asyncio.sleep(fault.delay_s)
        fault = _with_outage(fault, self.api_down)
        if fault.disconnect:
            return self._respond(seen, Answer(0), fault)
        answer = self._instead(fault, seen)
        if answer is None:
            answer = await self._answer_api(request, seen)
        return self._respond(seen, answer, fault)

    async def _on_host(self, request: web.BaseRequest) -> web.StreamResponse:
        target = host.parse_target(request.raw_path)
        kind: Kind = "other" if target is None else target.part
        seen = self._seen(request, "host", kind, target.job if target else None)
        fault = self.faults.take(seen)
        await asyncio.sleep(fault.delay_s)
        fault = _with_outage(fault, self.host_down)
        if fault.disconnect:
            return self._respond(seen, Answer(0), fault)
        answer = self._instead(fault, seen)
        return self._respond(seen, answer or self._answer_host(seen, fault), fault)

    def _seen(
        self,
        request: web.BaseRequest,
        origin: Literal["api", "host"],
        kind: Kind,
        job: str | None,
    ) -> SimRequest:
        self._count += 1
        peer = request.transport.get_extra_info("peername") if request.transport else None
        seen = SimRequest(
            number=self._count,
            at_s=self.clock.real_s(),
            origin=origin,
            kind=kind,
            job=job,
            method=request.method,
            target=request.raw_path,
            headers={name.lower(): value for name, value in request.headers.items()},
            client_port=peer[1] if peer else 0,
        )
        self.log.add(seen)
        return seen

    def _respond(self, seen: SimRequest, answer: Answer, fault: Fault) -> ScriptedResponse:
        def on_end(status: int, body_bytes: int) -> None:
            self.log.end(seen.number, status=status, body_bytes=body_bytes)

        return ScriptedResponse(answer, fault, on_end=on_end)

    def _instead(self, fault: Fault, seen: SimRequest) -> Answer | None:
        """Return what a fault answers in place of the truth, None where it does not."""
        if fault.html:
            return Answer(fault.status or 200, {"Content-Type": "text/html"}, _HTML)
        if fault.body is not None:
            body = fault.body.encode() if isinstance(fault.body, str) else fault.body
            kind = "application/json" if seen.origin == "api" else "audio/wav"
            return Answer(fault.status or 200, {"Content-Type": kind}, body)
        if fault.status is None:
            return None
        if seen.origin == "api":
            return api.error(fault.status, self.error_shape)
        return host.error_page(fault.status, "Fault", f"Scripted {fault.status}")

    async def _answer_api(self, request: web.BaseRequest, seen: SimRequest) -> Answer:
        key = seen.headers.get("x-api-key", "")
        if not key or (self.key is not None and key != self.key):
            return api.error(401, self.error_shape)
        match seen.kind:
            case "list":
                self._list_count += 1
                if self.on_list is not None:
                    self.on_list(self._list_count)
                query = seen.target.partition("?")[2]
                return api.answer_list(query, self.account, self, self.links, self.serving)
            case "progress":
                job = self.account.find(seen.job or "")
                if job is None:
                    return api.error(404, self.error_shape)
                serving = job.serving or self.serving
                return api.answer_progress(job, self.account, self, self.links, serving)
            case "submit":
                return await self._answer_submit(request)
            case _:
                return api.error(404, self.error_shape, "Not found")

    async def _answer_submit(self, request: web.BaseRequest) -> Answer:
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            upload = await submit.read_upload(request)
        except submit.TooLargeError:
            return api.error(413, self.error_shape)
        if upload is None:
            return api.error(400, self.error_shape, "The field audio is missing")
        return api.submitted(self.submit(*upload))

    def _answer_host(self, seen: SimRequest, fault: Fault) -> Answer:
        target = host.parse_target(seen.target)
        job = self.account.find(target.job) if target is not None else None
        if target is None or job is None or (target.part == "audio" and job.status != "success"):
            return host.error_page(404, "NoSuchKey", "The specified key does not exist.")
        serving = job.serving or self.serving
        refusal = self.links.refusal(target, epoch=job.link_epoch if serving.signed else None)
        if refusal is not None:
            return host.error_page(403, "AccessDenied", refusal)
        hop = host.redirect(target, serving, host.Origin(self.host_url, self.mirror_url))
        if hop is not None:
            return hop
        if fault.change_file:
            self.change(job.id)
            job = self.account.get(job.id)
        return host.answer_file(job, target, serving, seen.headers, fault)


def _with_outage(fault: Fault, down: bool | int) -> Fault:  # noqa: FBT001 - or a status
    """Return the fault of a request while its whole host is down: closed, or a status."""
    if down is False:
        return fault
    return replace(fault, disconnect=True) if down is True else replace(fault, status=down)


def _api_kind(method: str, target: str) -> tuple[Kind, str | None]:
    path = target.partition("?")[0].removeprefix(_BASE)
    if path == "/denoise":
        return ("submit" if method == "POST" else "list"), None
    pieces = path.split("/")
    if len(pieces) == 4 and pieces[1] == "denoise" and pieces[3] == "progress":
        return "progress", pieces[2]
    return "other", None
