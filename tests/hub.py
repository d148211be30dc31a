"""A small hub on loopback: serves files below a folder in the way of the Hugging Face hub."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Repositories are folders `<root>/<owner>/<name>` (models) or `<root>/datasets/...`."""

    root: Path
    seen: list[str]

    def parse_request(self) -> bool:
        """Of every request, in whatever method."""
        known = super().parse_request()
        self.seen.append(self.requestline)
        return known

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        wanted = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(body=True, paths=json.loads(wanted)["paths"])

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""

    def _answer(self, body: bool, paths: list[str] | None = None) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "api":
            self._api(parts[1], "/".join(parts[2:4]), parts[4:], paths)
        elif "resolve" in parts:
            at = parts.index("resolve")
            self._file(self.root.joinpath(*parts[:at]), "/".join(parts[at + 2 :]), body)
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body)

    def _api(self, kind: str, name: str, rest: list[str], paths: list[str] | None) -> None:
        folder = self.root / ("datasets" if kind == "datasets" else "") / name
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        names = [str(file.relative_to(folder)) for file in files]
        answer: object
        if rest[:1] in (["tree"], ["paths-info"]):
            below = "/".join(rest[2:])
            answer = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": digest(file)}
                for name, file in zip(names, files, strict=True)
                if (name in paths if paths is not None else name.startswith(below))
            ]
        else:
            siblings = [{"rfilename": name} for name in names]
            answer = {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
        if files:
            self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, True)
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, True)

    def _file(self, folder: Path, name: str, body: bool) -> None:
        file = folder / name
        headers = {"X-Repo-Commit": COMMIT}
        if file.is_file():
            headers["ETag"] = f'"{digest(file)}"'
            self._send(200, file.read_bytes(), headers, body)
        else:
            self._send(404, b"", {**headers, "X-Error-Code": "EntryNotFound"}, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


def digest(file: Path) -> str:
    """What names a version of a file."""
    return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()


@contextmanager
def serving(root: Path, seen: list[str] | None = None) -> Iterator[str]:
    """The address of a hub that serves `root`; `seen` gets the first line of each request."""
    handler = type("RootedHub", (Hub,), {"root": root, "seen": [] if seen is None else seen})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
