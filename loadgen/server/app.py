"""The faces of the server: which path speaks which protocol, and what each answers."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from loadgen.clock import now_ns
from loadgen.server import describe, kserve, metrics, plain, torchserve
from loadgen.server.config import Limits
from loadgen.server.connections import Connections
from loadgen.server.job import RefusedError, Reply
from loadgen.server.messages import Cancel, Handle, Request, Response, Send, error
from loadgen.server.model import Gpus, Model

_TEXT = b"text/plain"
_MOST_MEMBERS = 64  # of gzip; what is left of a body is copied once for each
_RETRY = b"Retry-After: %d\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Face:
    """Say how a protocol's requests become jobs, and how their replies look.

    Attributes:
        read: Returns what is asked for: `tensors`, `rows`, `priority`, `timeout_ns`, and whatever `write` needs.
        write: Returns the reply's body.
        refuse: Returns the reply that says why there is none.
    """

    read: Callable[[Request, Model], Any]
    write: Callable[[Any, Reply, Model], Response]
    refuse: Callable[[RefusedError], Response]


class App:
    """Serve models over HTTP: KServe v2 with Triton's extensions, TorchServe, and a plain form of our own.

    - `GET /v2`, `/v2/health/live`, `/v2/health/ready`, `/v2/models/stats`, `/v2/models/M` with `/ready`, `/config`,
      `/stats`; `POST /v2/models/M/infer`, `POST /v2/repository/index`; each also with `/versions/1` after M.
    - `GET /ping`, `/models`, `/models/M`; `POST /predictions/M`.
    - `POST /predict` takes `{"inputs": ...}` (or nothing, and then `GET` too) for the first model and answers
      `{"outputs": ..., "batch_size": b, "queue_ms": ..., "compute_ms": ...}`; `GET /healthz` is 200 while every
      instance runs.
    - `GET /metrics` is for Prometheus.

    Errors are one sentence, in the form of their protocol: 400 for a body that is not what the model takes, 404, 405,
    413 for one that is too large, 503 for a full queue (with Retry-After) or a time-out in it, 500 for a batch that
    failed.

    Args:
        models: At least one, their names different.
        limits: Of the server.
        gpus: The simulated devices that the models share, to tell how busy they are.
        version: Of opfind, for the server's metadata.
    """

    def __init__(self, models: Sequence[Model], limits: Limits, *, gpus: Gpus | None = None, version: str = "") -> None:
        self.models = {model.config.name: model for model in models}
        self.connections = Connections(self._handle, limits)
        self._limits = limits
        self._version = version
        self._first = models[0]
        self._devices = metrics.Devices(gpus or {})
        self._routes: dict[bytes, dict[bytes, Handle]] = {}
        self._add_server_routes()
        for model in models:
            self._add_model_routes(model)

    @property
    def ready(self) -> bool:
        """Say that every model serves."""
        return all(model.ready for model in self.models.values())

    def drain(self) -> None:
        """Refuse what is new."""
        for model in self.models.values():
            model.drain()
        self.connections.drain()

    def _add_server_routes(self) -> None:
        get: dict[str, Callable[[], Response]] = {
            "/v2": lambda: _json(describe.server_metadata(self._version)),
            "/v2/health/live": Response,
            "/v2/health/ready": lambda: Response(status=200 if self.ready else 400),
            "/v2/models/stats": lambda: self._stats(self.models.values()),
            "/ping": lambda: _json(torchserve.health(is_healthy=self.ready), 200 if self.ready else 500),
            "/models": lambda: _json(torchserve.models([model.config for model in self.models.values()])),
            "/healthz": lambda: _json({"ready": self.ready}, 200 if self.ready else 503),
            "/metrics": self._metrics_page,
        }
        for path, answer in get.items():
            self._route("GET", path, _now(answer))
        self._route("POST", "/v2/repository/index", _now(self._index))
        face = _Face(read=plain.read, write=plain.write, refuse=_refused)
        for method in ("GET", "POST"):
            self._route(method, "/predict", partial(self._infer, self._first, face))

    def _add_model_routes(self, model: Model) -> None:
        config, name = model.config, quote(model.config.name, safe="")
        face = _Face(read=_read_kserve, write=_write_kserve, refuse=_refused)
        for base in (f"/v2/models/{name}", f"/v2/models/{name}/versions/{kserve.VERSION}"):
            self._route("GET", base, _now(lambda: _json(describe.model_metadata(config))))
            self._route("GET", f"{base}/ready", _now(lambda: Response(status=200 if model.ready else 400)))
            self._route("GET", f"{base}/config", _now(lambda: _json(describe.model_config(config))))
            self._route("GET", f"{base}/stats", _now(lambda: self._stats([model])))
            self._route("POST", f"{base}/infer", partial(self._infer, model, face))
        face = _Face(read=torchserve.read, write=torchserve.write, refuse=torchserve.refused)
        for path in (f"/predictions/{name}", f"/predictions/{name}/1.0"):
            for method in ("GET", "POST", "PUT"):
                self._route(method, path, partial(self._infer, model, face))
        self._route("GET", f"/models/{name}", _now(lambda: _json([torchserve.model(config, is_ready=model.ready)])))

    def _route(self, method: str, path: str, handle: Handle) -> None:
        self._routes.setdefault(path.encode(), {})[method.encode()] = handle

    def _handle(self, request: Request, send: Send) -> Cancel | None:
        """Answer a request; a defect of ours ends as a 500, never as a connection that hangs."""
        path = _path(request.path)
        methods = self._routes.get(path) or self._routes.get(_canonical(path))
        if methods is None:
            send(_missing(path.decode("latin-1")))
            return None
        handle = methods.get(request.method)
        if handle is None:
            allowed = b"Allow: %s\r\n" % b", ".join(methods)
            send(error(405, f"The method {request.method.decode()} is not allowed here.", allowed))
            return None
        try:
            return handle(request, send)
        except Exception as defect:  # noqa: BLE001 (whatever it is, its sender is told, and the server lives)
            send(error(500, f"The server failed with {type(defect).__name__}."))
            return None

    def _infer(self, model: Model, face: _Face, request: Request, send: Send) -> Cancel | None:
        try:
            _decompress(request, self._limits.max_body_bytes)
            asked = face.read(request, model)
        except RefusedError as why:
            model.statistics.fail("OTHER", now_ns() - request.began_ns)
            send(face.refuse(why))
            return None

        def reply(answer: Reply | RefusedError) -> bool:
            """Send an answer; return whether it is a 2xx."""
            began_ns = now_ns()
            try:
                response = face.refuse(answer) if isinstance(answer, RefusedError) else face.write(asked, answer, model)
            except RefusedError as why:
                response = face.refuse(why)
            send(response)
            model.statistics.stages["serialise"].add(now_ns() - began_ns)
            return response.status // 100 == 2

        try:
            job = model.submit(
                asked.tensors, reply, rows=asked.rows, began_ns=request.began_ns, priority=asked.priority,
                timeout_ns=asked.timeout_ns,
            )  # fmt: skip
        except RefusedError as why:
            send(face.refuse(why))
            return None
        return partial(model.cancel, job)

    def _stats(self, models: Any) -> Response:
        return _json({"model_stats": [describe.model_statistics(model.config, model.statistics) for model in models]})

    def _index(self) -> Response:
        return _json([
            {"name": model.config.name, "version": kserve.VERSION, "state": "READY" if model.ready else "UNAVAILABLE"}
            for model in self.models.values()
        ])  # fmt: skip

    def _metrics_page(self) -> Response:
        return Response(metrics.exposition(list(self.models.values()), self._devices), 200, metrics.CONTENT_TYPE)


def _now(answer: Callable[[], Response]) -> Handle:
    """Return a handler that answers at once."""

    def handle(_: Request, send: Send) -> None:
        send(answer())

    return handle


def _json(value: Any, status: int = 200) -> Response:
    return Response(kserve.dump_json(value), status)


def _refused(why: RefusedError) -> Response:
    retry = why.retry_after_s
    return error(why.status, str(why), b"" if retry is None else _RETRY % retry)


def _path(target: bytes) -> bytes:
    """Return a target without scheme and host, which it may name."""
    if target.startswith(b"/") or b"://" not in target:
        return target
    return b"/" + target.partition(b"://")[2].partition(b"/")[2]


def _canonical(path: bytes) -> bytes:
    """Return a path as routes are written: one way to encode each segment, and no slash at the end."""
    segments = path.rstrip(b"/").split(b"/")  # before decoding: an encoded slash stays inside its segment
    return "/".join(quote(unquote_to_bytes(segment), safe="") for segment in segments).encode()


def _missing(path: str) -> Response:
    """Say what is not there, in the protocol that the path belongs to."""
    parts = path.split("/")
    if path.startswith("/v2/models/") and parts[3]:
        version = f" version {parts[5]}" if parts[4:5] == ["versions"] and len(parts) > 5 else ""
        return error(404, f"Request for unknown model: '{parts[3]}'{version} is not found")
    if path.startswith(("/predictions/", "/models/")) and parts[2]:
        return torchserve.not_found(parts[2])
    return error(404, f"There is nothing at {path}.")


def _decompress(request: Request, most_bytes: int) -> None:
    """Replace a compressed body by what it holds.

    Raises:
        RefusedError: It is damaged, holds too much, or is compressed in another way than gzip or deflate.
    """
    encoding = request.headers.get(b"content-encoding")
    encoding = None if encoding is None else encoding.lower()
    if encoding is None or encoding == b"identity":
        return
    if encoding not in (b"gzip", b"deflate"):
        raise RefusedError(415, "The body's Content-Encoding is none of gzip, deflate and identity.")
    packed, found = request.body, bytearray()
    for _ in range(_MOST_MEMBERS):  # gzip may have several members, one behind the other
        engine = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # either of the two
        try:
            found += engine.decompress(packed, most_bytes + 1 - len(found))
        except zlib.error:
            raise RefusedError(400, "The body is not compressed as its Content-Encoding says.") from None
        if len(found) > most_bytes:
            raise RefusedError(413, f"The body is larger than {most_bytes} bytes.")
        if not engine.eof:
            raise RefusedError(400, "The body is compressed, and cut off.")
        packed = engine.unused_data
        if not packed:
            request.body = bytes(found)
            return
    raise RefusedError(400, f"The body is compressed in more than {_MOST_MEMBERS} members.")


def _read_kserve(request: Request, model: Model) -> kserve.Infer:
    length = request.headers.get(b"inference-header-content-length")
    return kserve.parse_infer(request.body, length, model.config)


def _write_kserve(asked: kserve.Infer, reply: Reply, model: Model) -> Response:
    outputs = reply.outputs
    if model.config.is_simulated:
        outputs = kserve.echo(outputs, asked.rows, model.config)
    body, head_bytes = kserve.render_infer(asked, outputs, model.config)
    if head_bytes is None:
        return Response(body)
    extra = b"Inference-Header-Content-Length: %d\r\n" % head_bytes
    return Response(body, 200, b"application/octet-stream", extra)
