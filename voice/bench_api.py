"""`/v1/bench`: what only a server of the profile "bench" can be told, while calls go on.

Its engines take fixed times; here they change, so that one can see what becomes of the calls.
"""

import json
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from voice import stubs
from voice.server import Server

LONGEST = 4096
"""Bytes of a request that are read."""


def add(app: FastAPI, server: Server) -> None:
    """Add the routes for `server`, whose profile is "bench"."""

    @app.get("/v1/bench")
    async def show() -> dict[str, Any]:
        return {"stubs": stubs.in_force(server.ears, server.mind, server.mouth), **_loop(server)}

    @app.put("/v1/bench")
    async def change(request: Request) -> Response:
        body = await request.body()
        try:
            if len(body) > LONGEST:
                raise ValueError(f"{len(body)} bytes; expected at most {LONGEST}")
            given = json.loads(body)
            if not isinstance(given, dict):
                raise ValueError("expected a JSON object")
            stubs.change(server.ears, server.mind, server.mouth, given)
        except (ValueError, RecursionError) as error:
            return JSONResponse({"error": {"code": "bad_bench", "message": str(error)}}, 400)
        return JSONResponse(stubs.in_force(server.ears, server.mind, server.mouth))


def _loop(server: Server) -> dict[str, Any]:
    """Return what the control loop is at and has done."""
    steering = server.steering
    return {} if steering is None else {"tuner": steering.snapshot()["tuner"]}
