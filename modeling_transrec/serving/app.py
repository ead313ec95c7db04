"""The HTTP interface of a service, for `transrec serve`: FastAPI, its page at `/docs`, metrics for Prometheus."""

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from traceback import walk_tb
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response, params
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from limits import RateLimitItem
from limits import parse as parse_rate
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, StringConstraints
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..version import __version__
from .batching import Batcher, BusyError
from .columns import with_media_decoded
from .item_index import IndexUnavailableError
from .service import NotKeptError, NotLoadedError, Service


logger = logging.getLogger(__name__)

Id = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Time = Annotated[int, Field(ge=-(2**62), le=2**62)]  # differences of two fit into 64 bits
Value = StrictStr | StrictBool | StrictInt | StrictFloat | None
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Limits:
    """
    What a request may ask for.

    Args:
        max_k: items in an answer.
        max_history: items of a history; older ones than the model reads add nothing but counts.
        max_items: items or interactions of one change.
        max_body: bytes of a request.
        rate: requests of a client, such as `100/second` or `6000/minute`; `None` for any number. A client is a token,
            where there are tokens, else an address.
        max_waiting: requests that wait for an answer; more get 503.
        max_batch: requests that are computed together.

    Raises:
        ValueError: if a number is below 1, or the rate cannot be read.
    """

    max_k: int = 1000
    max_history: int = 10_000
    max_items: int = 1000
    max_body: int = 2_000_000
    rate: str | None = None
    max_waiting: int = 4096
    max_batch: int = 256

    def __post_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        try:
            self.parsed_rate()
        except ValueError as error:
            raise ValueError(f"the rate limit must be such as 100/second, got {self.rate!r}") from error

    def parsed_rate(self) -> RateLimitItem | None:
        """Returns the rate as `limits` has it."""
        return None if self.rate is None else parse_rate(self.rate)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RecommendRequest(_Strict):
    """A user's history, and what is wanted for it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"history": ["t0001", "t0002"], "k": 10}]})

    history: list[Id] = Field(description="Item ids, oldest first.")
    timestamps: list[Time] | None = Field(
        default=None, description="When each item of the history was met, for models that read times (HSTU)."
    )
    user_id: Id | None = Field(default=None, description="Whose history it is, for models of user ids (DSSM).")
    k: int = Field(default=10, ge=1, description="Number of items.")
    exclude_seen: bool = Field(default=True, description="Whether items of the history are left out.")
    explain: bool = Field(default=False, description="Whether to say what each score is made of.")
    cold_users: str = Field(
        default="raise",
        pattern="^(raise|popularity|none)$",
        description="What an empty history gets: popular items, nothing, or an error.",
    )
    unknown_items: str = Field(
        default="raise",
        pattern="^(raise|skip)$",
        description="Whether items of the history that are not in the catalogue are left out, or an error.",
    )
    where: dict[str, Value | list[Value]] | None = Field(
        default=None,
        description="Which items may be recommended: a value or a list of values by column; all must hold.",
        examples=[{"in_stock": True}],
    )
    diversity: float = Field(
        default=0.0, ge=0, le=1, description="From 0, the best items, to 1, items that are unlike one another."
    )


_OF_A_USER = {"history", "timestamps", "user_id"}  # the other fields are options of `Recommender.recommend`


class SimilarItemsRequest(_Strict):
    item_id: Id
    k: int = Field(default=10, ge=1, description="Number of items.")


class ScoreRequest(_Strict):
    history: list[Id] = Field(min_length=1, description="Item ids, oldest first.")
    item_ids: list[Id] = Field(min_length=1, description="Items to score.")


class Item(BaseModel):
    """An item: its id, and columns of the catalogue; an image or a sound is the file's bytes in base64."""

    model_config = ConfigDict(extra="allow")

    item_id: Id


class ItemsRequest(_Strict):
    items: list[Item] = Field(
        min_length=1,
        description="Items with `item_id` and the columns of the catalogue.",
        examples=[[{"item_id": "new", "text_en": "a red kettle"}]],
    )


class ItemIdsRequest(_Strict):
    item_ids: list[Id] = Field(min_length=1)


class Interaction(_Strict):
    user_id: Id
    item_id: Id
    timestamp: Time | None = Field(default=None, description="Seconds since 1970.")
    weight: float | None = Field(
        default=None, gt=0, le=1e6, description="What it counts; a click less than a purchase."
    )


class InteractionsRequest(_Strict):
    interactions: list[Interaction] = Field(min_length=1)


class ReloadRequest(_Strict):
    since: float | None = Field(
        default=None,
        ge=0,
        description="Seconds since 1970; what was logged before is in the checkpoint, and is not replayed.",
    )


class _Refused(Exception):
    """A request that gets a status and a sentence."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None):
        self.status, self.sentence, self.headers = status, sentence, headers


class _Metrics:
    """What Prometheus reads; each application counts for itself."""

    def __init__(self, service: Service):
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "transrec_requests", "Requests that were answered.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "transrec_request_seconds", "Time to answer.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.batches = Histogram(
            "transrec_batch_size", "Requests computed together.", ["route"], buckets=_BATCHES, registry=self.registry
        )
        items = Gauge("transrec_catalogue_items", "Items of the catalogue.", registry=self.registry)
        items.set_function(lambda: len(service.recommender.snapshot or ()))
        skipped = Gauge(
            "transrec_log_skipped",
            "Items and interactions of the log that did not fit the checkpoint when it was loaded.",
            registry=self.registry,
        )
        skipped.set_function(lambda: service.skipped)


def create_app(service: Service, token: str | None = None, limits: Limits | None = None) -> FastAPI:
    """Returns the application of a service, for any ASGI server.

    Args:
        service: answers.
        token: that requests must bring as `Authorization: Bearer TOKEN`; `/health` and `/ready` need none.
        limits: what a request may ask for.

    Example:

    ```python
    app = create_app(Service(lambda: Recommender.from_pretrained("my-shop")))
    uvicorn.run(app, host="127.0.0.1", port=8000)
    ```
    """
    limits = limits or Limits()
    metrics = _Metrics(service)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Changes wait for each other and for a reload; in threads of their own, nothing else waits for them.
        with ThreadPoolExecutor(1, "change") as changing, ThreadPoolExecutor(1, "reload") as reloading:
            app.state.changing, app.state.reloading = changing, reloading
            async with contextlib.AsyncExitStack() as opened:
                app.state.batchers = {
                    route: await opened.enter_async_context(
                        Batcher(compute, limits.max_batch, limits.max_waiting, metrics.batches.labels(route).observe)
                    )
                    for route, compute in _batched(service).items()
                }
                yield
        service.close()

    app = FastAPIOffline(title="transrec", version=__version__, lifespan=lifespan, description=_ABOUT)
    app.state.service = service
    _answer_errors(app)
    _add_routes(app, service, limits, metrics, _guards(token, limits))
    app.add_middleware(_Observed, metrics=metrics, max_body=limits.max_body)
    return app


def _batched(service: Service) -> dict[str, Callable[[Any, list], Any]]:
    """Returns what answers the requests of a route together: from their common key, and from what each has."""

    def recommend(key: tuple[str, ...], users: list[dict]) -> list:
        return service.recommend(users, **json.loads(key[0]))

    def similar_items(k: int, item_ids: list[str]) -> list:
        return service.similar_items(item_ids, k)

    def score(_: None, asked: list[tuple[list[str], list[str]]]) -> list:
        return service.score(*zip(*asked, strict=True))

    return {"/recommend": recommend, "/similar-items": similar_items, "/score": score}


_ABOUT = (
    "Recommends items of a catalogue for a history of item ids. Changes are on the disk when they are answered. An "
    'error is `{"error": "…"}`.'
)


def _guards(token: str | None, limits: Limits) -> list:
    """Returns dependencies that let a request pass: by its token and its client's rate."""
    rate = limits.parsed_rate()
    limiter = MovingWindowRateLimiter(MemoryStorage())

    async def passes(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if token is not None and not secrets.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise _Refused(401, "give the token as Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        client = "token" if token is not None else request.client.host if request.client is not None else ""
        if rate is not None and not await limiter.hit(rate, client):
            raise _Refused(429, f"more than {limits.rate} requests", {"Retry-After": "1"})

    asks_for_token = [] if token is None else [Depends(HTTPBearer(auto_error=False))]  # at `/docs`
    return [*asks_for_token, Depends(passes)]


def _queue(max_waiting: int) -> params.Depends:
    """Returns a dependency that counts requests until they are answered, and refuses more than so many."""
    waiting = 0

    async def waits() -> AsyncIterator[None]:
        nonlocal waiting
        if waiting >= max_waiting:
            raise BusyError(f"{max_waiting} requests wait already")
        waiting += 1
        try:
            yield
        finally:
            waiting -= 1

    return Depends(waits)


def _check(value: int, most: int, what: str) -> None:
    if value > most:
        raise _Refused(422, f"{what} is {value:,}, and at most {most:,} are allowed")


def _add_routes(app: FastAPI, service: Service, limits: Limits, metrics: _Metrics, guarded: list) -> None:
    changed = [*guarded, _queue(limits.max_waiting)]

    async def change(make: Callable[[Any], None], given: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(app.state.changing, make, given)

    @app.post("/recommend", dependencies=guarded)
    async def recommend(request: RecommendRequest) -> dict[str, list[dict[str, Any]]]:
        """Recommends the best items for a history."""
        _check(request.k, limits.max_k, "k")
        _check(len(request.history), limits.max_history, "the number of items in history")
        options = request.model_dump(exclude=_OF_A_USER)
        user = request.model_dump(include=_OF_A_USER, exclude_none=True)
        # Requests with the same options that say the same of their users are answered together.
        key = json.dumps(options, sort_keys=True), *sorted(user)
        return {"items": await app.state.batchers["/recommend"].submit(key, user)}

    @app.post("/similar-items", dependencies=guarded)
    async def similar_items(request: SimilarItemsRequest) -> dict[str, list[dict[str, Any]]]:
        """Finds the items most like one."""
        _check(request.k, limits.max_k, "k")
        return {"items": await app.state.batchers["/similar-items"].submit(request.k, request.item_id)}

    @app.post("/score", dependencies=guarded)
    async def score(request: ScoreRequest) -> dict[str, list[float]]:
        """Scores some items for a history."""
        _check(len(request.history), limits.max_history, "the number of items in history")
        _check(len(request.item_ids), limits.max_items, "the number of item_ids")
        return {"scores": await app.state.batchers["/score"].submit(None, (request.history, request.item_ids))}

    @app.put("/items", dependencies=changed)
    async def put_items(request: ItemsRequest) -> dict[str, int]:
        """Adds items to the catalogue, or replaces those with the same id."""
        _check(len(request.items), limits.max_items, "the number of items")
        items = with_media_decoded([item.model_dump() for item in request.items])
        await change(service.put_items, items)
        return {"items": len(items)}

    @app.delete("/items", dependencies=changed)
    async def delete_items(request: ItemIdsRequest) -> dict[str, int]:
        """Takes items out of the catalogue."""
        _check(len(request.item_ids), limits.max_items, "the number of item_ids")
        await change(service.delete_items, request.item_ids)
        return {"items": len(request.item_ids)}

    @app.post("/interactions", dependencies=changed)
    async def interactions(request: InteractionsRequest) -> dict[str, int]:
        """Counts interactions; the next recommendations use them."""
        _check(len(request.interactions), limits.max_items, "the number of interactions")
        rows = [one.model_dump(exclude_none=True) for one in request.interactions]
        await change(service.add_interactions, rows)
        return {"interactions": len(rows)}

    @app.post("/reload", dependencies=changed)
    async def reload(request: ReloadRequest | None = None) -> dict[str, int]:
        """Loads the checkpoint again, and replays the log; until it is there, the old one answers."""
        since = None if request is None else request.since
        try:
            await asyncio.get_running_loop().run_in_executor(app.state.reloading, service.reload, since)
        except NotLoadedError as error:
            logger.error("The checkpoint could not be loaded again", exc_info=error)
            raise _Refused(503, "the checkpoint could not be loaded, see the log; the old one answers") from error
        return {"catalogue": len(service.recommender.snapshot or ()), "skipped": service.skipped}

    @app.get("/metrics", dependencies=guarded, response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Returns what Prometheus reads."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Answers while the process lives."""
        return {"status": "alive"}

    @app.get("/ready")
    async def ready() -> dict[str, Any]:
        """Answers when there is a catalogue to recommend from, and an index that can be searched."""
        await asyncio.to_thread(service.check)
        return {"status": "ready", "catalogue": len(service.recommender.snapshot or ()), "version": __version__}


def _answer_errors(app: FastAPI) -> None:
    """Gives every error a status and a sentence; what a user sent stands in no log."""

    def answer(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": sentence}, status, headers)

    @app.exception_handler(_Refused)
    async def refused(request: Request, error: _Refused) -> JSONResponse:
        return answer(error.status, error.sentence, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return answer(422, f"the body is not JSON: {first['ctx']['error']} (character {first['loc'][-1]})")
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return answer(422, f"{place or 'the body'}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, _Refused):  # while the body was read
            return answer(error.__cause__.status, error.__cause__.sentence)
        return answer(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(ValueError)
    async def wrong(request: Request, error: ValueError) -> JSONResponse:
        return answer(422, str(error))

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> JSONResponse:
        return answer(503, str(error), {"Retry-After": "1"})

    @app.exception_handler(NotKeptError)
    async def not_kept(request: Request, error: NotKeptError) -> JSONResponse:
        logger.error("A change could not be kept", exc_info=error)
        return answer(507, "the change could not be kept, and was not made")

    @app.exception_handler(IndexUnavailableError)
    async def unavailable(request: Request, error: IndexUnavailableError) -> JSONResponse:
        logger.error("The index cannot be searched or changed", exc_info=error)
        return answer(503, "the index cannot be reached, see the log", {"Retry-After": "1"})

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:  # it is raised again, and logged
        return answer(500, "the service failed at this request; its log says where")


class _Observed:
    """Counts and times requests, logs them as JSON without what they say, and refuses bodies that are too large."""

    def __init__(self, app: ASGIApp, metrics: _Metrics, max_body: int):
        self.app, self.metrics, self.max_body = app, metrics, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, size = time.perf_counter(), 500, 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_body:
                raise _Refused(413, f"the request has more than {self.max_body:,} bytes")
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, limited, noted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - start
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            facts = {"method": scope["method"], "route": route, "status": status, "seconds": round(seconds, 5)}
            logger.info("answered", extra={"request": facts})


class JsonFormatter(logging.Formatter):
    """
    Writes each record of a log as a line of JSON.

    Of an error it has the type and the places in the code, not its message, which may hold what a client sent; that of
    an `OSError`, which is of files and addresses, is there.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "message": record.getMessage(),
        }
        line |= getattr(record, "request", {})
        if record.exc_info and record.exc_info[1] is not None:
            line["errors"] = _described(record.exc_info[1])
        return json.dumps(line)


def _described(error: BaseException | None) -> list[dict[str, Any]]:
    """Returns the type of an error and where it was raised, then the same of those that caused it."""
    found: list[dict[str, Any]] = []
    while error is not None:
        frames = [(frame.f_code, line) for frame, line in walk_tb(error.__traceback__)]
        places = [f"{code.co_filename}:{line} {code.co_name}" for code, line in frames]
        message = {"message": str(error)} if isinstance(error, OSError) else {}
        found.append({"type": type(error).__name__, **message, "traceback": places})
        error = error.__cause__ or error.__context__
    return found
