"""A server that answers W&B's client as far as this package's commands need it, and keeps what it receives."""

import base64
import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PAGE = {"endCursor": "", "hasNextPage": False}
KEPT = ("project", "displayName", "jobType", "groupName", "tags")


class WandbServer(ThreadingHTTPServer):
    """Runs by id, views by number, and the names of all queries.

    Attributes:
        projects: Names of the projects that exist.
        sweep: The last sweep, with its file.
        proposals: Values of a sweep's next runs. When there are no more, the sweep ends.
        forbidden: Word in a query that is answered with an error of rights.
        away: Word in a query from which on the server closes every connection.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: dict[str, dict[str, Any]] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.queries: list[str] = []
        self.projects: set[str] = set()
        self.sweep: dict[str, Any] = {}
        self.proposals: list[dict[str, Any]] = []
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
        if "upsertSweep" in query:
            project = {"id": "P", "name": v["projectName"], "entity": {"id": "E", "name": "me"}}
            self.sweep = {"name": "s1", "project": project, "config": v["config"], "runs": {"edges": []}}
            self.projects.add(v["projectName"])
            return {"upsertSweep": {"sweep": self.sweep, "configValidationWarnings": []}}
        if "createAgent" in query:
            return {"createAgent": {"agent": {"id": "A"}}}
        if "agentHeartbeat" in query:
            return {"agentHeartbeat": {"agent": {"id": "A"}, "commands": json.dumps(self.commands(v["runState"]))}}
        if "upsertView" in query:
            return {"upsertView": {"view": self.upsert_view(v), "inserted": not v.get("id")}}
        if "viewer" in query:
            account = {"id": "U", "entity": "me", "username": "me", "name": "me", "email": "", "flags": "{}"}
            account |= {"admin": False, "teams": {"edges": []}, "apiKeys": {"edges": []}}
            return {"viewer": account, "serverInfo": {"cliVersionInfo": {}}}
        if "serverInfo" in query:
            return {"serverInfo": {"features": [], "cliVersionInfo": {}, "latestLocalVersionInfo": None}}
        if "view(" in query:
            return {"view": self.views.get(v["reportId"])}
        if "models(" in query:
            fields = {"id": "P", "entityName": "me", "createdAt": "2026-01-01", "isBenchmark": False, "user": None}
            nodes = [fields | {"name": name, "internalId": "UDox"} for name in sorted(self.projects)]
            return {"models": {"edges": [{"node": node, "cursor": ""} for node in nodes], "pageInfo": PAGE}}
        if "model(" in query:
            return {"model": {"bucket": self.run(v["name"])}}
        return {"project": self.project(query, v)}

    def commands(self, running: str) -> list[dict[str, Any]]:
        """The next run of a sweep, after the one before has ended."""
        if json.loads(running):
            return []
        if not self.proposals:
            return [{"type": "exit"}]
        values = {key: {"value": value} for key, value in self.proposals.pop(0).items()}
        return [{"type": "run", "run_id": f"run{len(self.proposals)}", "args": values, "program": None}]

    def project(self, query: str, v: dict[str, Any]) -> dict[str, Any] | None:
        """A project with the runs, the run or the view that a query asks for."""
        name = v.get("project") or v.get("projectName") or v.get("name") or ""
        if name not in self.projects:
            return None
        found: dict[str, Any] = {"id": "P", "internalId": "UDox", "name": name, "readOnly": False}
        if "sweep(" in query:
            return found | {"sweep": self.sweep}
        if "allViews" in query:
            views = [view for view in self.views.values() if view["name"] == v["viewName"]]
            return found | {"allViews": {"edges": [{"node": view} for view in views]}}
        if "runs(" in query:
            runs = [self.run(run_id) for run_id, run in self.runs.items() if run["project"] == name]
            edges = [{"node": run, "cursor": ""} for run in runs]
            return found | {"runCount": len(edges), "runs": {"edges": edges, "pageInfo": PAGE}}
        return found | {"run": self.run(v.get("runName") or v.get("run") or v.get("name") or "")}

    def upsert_run(self, v: dict[str, Any]) -> dict[str, Any]:
        """Make or change a run."""
        fresh = v["name"] not in self.runs
        run = self.runs.setdefault(v["name"], {"history": [], "summary": {}, "config": {}, "exit": None})
        run |= {key: v[key] for key in KEPT if v.get(key)}
        run["config"] |= json.loads(v.get("config") or "{}")
        self.projects.add(run["project"])
        return {"bucket": self.run(v["name"]), "inserted": fresh}

    def upsert_view(self, v: dict[str, Any]) -> dict[str, Any]:
        """Make or change a workspace or a report."""
        number = v.get("id") or base64.b64encode(b"View:%d" % (len(self.views) + 1)).decode()
        view = self.views.setdefault(number, {"id": number, "createdAt": "2026-01-01T00:00:00"})
        view |= {key: v[key] for key in ("name", "displayName", "type", "spec", "description")}
        project = {"id": "P", "name": v["projectName"], "entityName": v["entityName"]}
        view |= {"project": project, "updatedAt": "2026-01-01T00:00:00"}
        return view

    def stream(self, run_id: str, sent: dict[str, Any]) -> None:
        """Keep the history and the summary that a run sends."""
        run = self.runs[run_id]
        for file, part in (sent.get("files") or {}).items():
            if file == "wandb-history.jsonl":
                run["history"][part["offset"] :] = [json.loads(line) for line in part["content"]]
            elif file == "wandb-summary.json":
                run["summary"] = json.loads(part["content"][-1])
        run["exit"] = sent.get("exitcode", run["exit"])

    def run(self, run_id: str) -> dict[str, Any] | None:
        """A run as queries return it."""
        if (run := self.runs.get(run_id)) is None:
            return None
        history, long_ago = run["history"], "2026-01-01T00:00:00"
        lines, keys = [json.dumps(row) for row in history], {key: {} for row in history for key in row}
        last = max((row["_step"] for row in history), default=-1)
        return {
            "id": f"id of {run_id}", "name": run_id, "displayName": run.get("displayName"), "group": None,
            "jobType": run.get("jobType"), "projectId": "1", "state": "finished", "config": json.dumps(run["config"]),
            "summaryMetrics": json.dumps(run["summary"]), "systemMetrics": "{}", "wandbConfig": '{"t": 1}', "tags": [],
            "project": {"id": "P", "name": run["project"], "entity": {"id": "E", "name": "me"}}, "readOnly": False,
            "user": {"name": "me", "username": "me"}, "createdAt": long_ago, "heartbeatAt": long_ago,
            "commit": None, "sweepName": None, "description": "", "notes": "", "eventsLineCount": 0, "logLineCount": 0,
            "historyKeys": {"keys": keys, "lastStep": last}, "historyLineCount": len(lines), "history": lines,
            "historyTail": json.dumps(lines[-1:]), "eventsTail": "[]",
            "parquetHistory": {"liveData": history, "parquetUrls": []},
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
            self.server.away = ""  # it stays away, because this is in every text
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
        """Send JSON."""
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
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
