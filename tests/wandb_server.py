"""A server that answers W&B's client as far as this package's commands need it, and keeps what it receives."""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PAGE = {"endCursor": "", "hasNextPage": False}


class WandbServer(ThreadingHTTPServer):
    """Runs, views and the names of all queries.

    Attributes:
        projects: Names of the projects that exist.
        forbidden: Word in a query or mutation that answers with an error of rights.
        away: Word in a query from which on the server closes every connection.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: dict[str, dict[str, Any]] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.queries: list[str] = []
        self.projects: set[str] = set()
        self.forbidden = self.away = "nothing"

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *args: Any) -> None:
        """Print nothing about clients that are gone."""

    def answer(self, query: str, v: dict[str, Any]) -> dict[str, Any] | None:
        """The data that a query returns; None where the account has no right to them."""
        self.queries.append(name.group(1) if (name := re.search(r"(?:query|mutation)\s+(\w+)", query)) else query)
        if self.forbidden in query:
            return None
        if "upsertBucket" in query:
            return {"upsertBucket": self.upsert_run(v)}
        if "createRunFiles" in query:
            files = [{"name": file, "uploadUrl": f"{self.url}/upload"} for file in v.get("files", [])]
            return {"createRunFiles": {"runID": "B", "uploadHeaders": [], "files": files}}
        if "upsertView" in query:
            return {"upsertView": {"view": self.upsert_view(v), "inserted": not v.get("id")}}
        if "viewer" in query:
            account = {"id": "U", "entity": "me", "username": "me", "flags": "{}", "email": "", "name": "me", "admin": False}
            none = {"edges": []}
            return {"viewer": {**account, "teams": none, "apiKeys": none}, "serverInfo": {"cliVersionInfo": {}}}
        if "serverInfo" in query:
            return {"serverInfo": {"features": [], "cliVersionInfo": {}, "latestLocalVersionInfo": None}}
        if "models(" in query:
            node = lambda name: {"id": "P", "name": name, "entityName": "me", "createdAt": "2026-01-01", "isBenchmark": False, "internalId": "UDox", "user": None}
            return {"models": {"edges": [{"node": node(name), "cursor": ""} for name in self.projects], "pageInfo": PAGE}}
        return self.of_project(query, v)

    def of_project(self, query: str, v: dict[str, Any]) -> dict[str, Any]:
        name = v.get("project") or v.get("projectName") or v.get("name") or ""
        if "model(" in query:
            run = self.runs.get(v.get("name", ""))
            return {"model": {"bucket": run and node(v["name"], run)}}
        if name not in self.projects:
            return {"project": None}
        project: dict[str, Any] = {"id": "P", "internalId": "UDox", "name": name, "readOnly": False}
        if "allViews" in query:
            found = [view for view in self.views.values() if view["name"] == v["viewName"]]
            project["allViews"] = {"edges": [{"node": view} for view in found]}
        elif "runs(" in query:
            nodes = [node(*run) for run in self.runs.items() if run[1]["project"] == name]
            project |= {"runCount": len(nodes), "runs": {"edges": [{"node": n, "cursor": ""} for n in nodes], "pageInfo": PAGE}}
        elif "run(" in query:
            number = v.get("runName") or v.get("run") or v.get("name") or ""
            run = self.runs.get(number)
            project["run"] = run and node(number, run)
        return {"project": project}

    def upsert_run(self, v: dict[str, Any]) -> dict[str, Any]:
        fresh = v["name"] not in self.runs
        run = self.runs.setdefault(v["name"], {"history": [], "summary": {}, "config": {}, "exit": None})
        run |= {key: v[key] for key in ("project", "displayName", "jobType", "groupName", "tags") if v.get(key)}
        run["config"] |= json.loads(v.get("config") or "{}")
        self.projects.add(run["project"])
        return {"bucket": node(v["name"], run), "inserted": fresh}

    def upsert_view(self, v: dict[str, Any]) -> dict[str, Any]:
        number = v.get("id") or f"V{len(self.views) + 1}"
        view = self.views.setdefault(number, {})
        view |= {key: v[key] for key in ("name", "displayName", "type", "spec", "description")}
        project = {"id": "P", "name": v["projectName"], "entityName": v["entityName"]}
        view |= {"id": number, "project": project, "updatedAt": "2026-01-01T00:00:00"}
        return view

    def stream(self, name: str, sent: dict[str, Any]) -> None:
        """Keep the history and the summary that a run sends."""
        run = self.runs[name]
        for file, part in (sent.get("files") or {}).items():
            lines = [json.loads(line) for line in part["content"]]
            if file == "wandb-history.jsonl":
                run["history"][part["offset"] :] = lines
            elif file == "wandb-summary.json":
                run["summary"] = lines[-1]
        run["exit"] = sent.get("exitcode", run["exit"])


def node(name: str, run: dict[str, Any]) -> dict[str, Any]:
    """A run as queries return it."""
    keys = sorted({key for row in run["history"] for key in row})
    last = max((row["_step"] for row in run["history"]), default=-1)
    user, project = {"name": "me", "username": "me"}, {"id": "P", "name": run["project"], "entity": {"id": "E", "name": "me"}}
    return {
        "id": f"id of {name}", "name": name, "displayName": run.get("displayName", name), "sweepName": None, "state": "finished",
        "config": json.dumps(run["config"]), "group": run.get("groupName"), "jobType": run.get("jobType"), "commit": None, "tags": [],
        "readOnly": False, "createdAt": "2026-01-01T00:00:00", "heartbeatAt": "2026-01-01T00:00:00", "description": "", "notes": "",
        "systemMetrics": "{}", "summaryMetrics": json.dumps(run["summary"]), "historyLineCount": len(run["history"]), "user": user,
        "historyKeys": {"keys": {key: {} for key in keys}, "lastStep": last}, "projectId": "1", "project": project,
        "eventsLineCount": 0, "logLineCount": 0, "historyTail": json.dumps([json.dumps(row) for row in run["history"][-1:]]), "eventsTail": "[]",
        "history": [json.dumps(row) for row in run["history"]], "parquetHistory": {"liveData": run["history"], "parquetUrls": []},
        "wandbConfig": '{"t": 1}',
    }  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    server: WandbServer

    def log_message(self, *args: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        self.reply({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.reply({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        sent = json.loads(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
        if self.server.away in sent.get("query", ""):
            self.server.away = ""  # in every text: it stays away
            self.close_connection = True
            self.connection.close()
        elif self.path.endswith("/file_stream"):
            self.server.stream(self.path.split("/")[-2], sent)
            self.reply({"exitcode": None, "limits": {}})
        else:
            data = self.server.answer(sent["query"], sent.get("variables") or {})
            denied = {"data": None, "errors": [{"message": "permission denied", "path": ["project"]}]}
            self.reply(denied if data is None else {"data": data})

    def reply(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A running server."""
    server = WandbServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
