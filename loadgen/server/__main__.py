"""Run the server as a process of its own: `python -m loadgen.server --port 0 --config '{"instances": 2}'`."""

import argparse
import json
import os
import signal
import sys
from threading import Thread

from loadgen.errors import OpfindError, UsageError
from loadgen.server.config import ServerConfig
from loadgen.server.serve import serve


def main(arguments: list[str] | None = None) -> int:
    """Serve; print `listening on http://HOST:PORT` once ready, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadgen.server", description="Serve the simulated GPU over HTTP.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port, 0 for any free one (default: %(default)s)")
    parser.add_argument("--config", default="{}", metavar="JSON", help="fields of ServerConfig as a JSON object")
    parser.add_argument("--watch-stdin", action="store_true", help="end when standard input does")
    options = parser.parse_args(arguments)
    try:
        config = _config(options.config)
        if not 0 <= options.port <= 65535:
            raise UsageError(f"--port {options.port}: must lie between 0 and 65535")
        if options.watch_stdin:
            Thread(target=_end_with_stdin, name="watch-stdin", daemon=True).start()
        shown_host = f"[{options.host}]" if ":" in options.host else options.host
        serve(
            [config.model()],
            config.limits(),
            host=options.host,
            port=options.port,
            ready=lambda port: print(f"listening on http://{shown_host}:{port}", flush=True),  # noqa: T201 (the contract)
        )
    except OpfindError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    return 0


def _config(text: str) -> ServerConfig:
    try:
        return ServerConfig.from_json(json.loads(text))
    except ValueError as error:
        raise UsageError(f"--config: {error}") from error


def _end_with_stdin() -> None:
    """Terminate this process when its parent closes the pipe, or dies."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
