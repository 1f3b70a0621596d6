"""A local page that follows runs while they train: their state, losses, pictures, and the comparison so far."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any

from pt_flows.bounds import Bound
from pt_flows.compare.groups import comparable
from pt_flows.compare.report import comparison, document, escape, html_list, html_table, picture, png, section
from pt_flows.compare.runs import Run, find_runs
from pt_flows.errors import UserError
from pt_flows.runs.folder import FAILED
from pt_flows.runs.lock import is_locked

Port = Annotated[int, Bound(0, 65535)]
FOLLOW = """
<p id="lost" hidden>The program has ended, so this page is no longer updated.</p>
<script>
let seen = "SIGNATURE";
setInterval(async () => {
  try {
    const now = await (await fetch("state")).text();
    document.getElementById("lost").hidden = true;
    if (now === seen) return;
    const open = [...document.querySelectorAll("details")].map(d => d.open);
    const fresh = new DOMParser().parseFromString(await (await fetch(".")).text(), "text/html");
    document.querySelector("main").replaceWith(fresh.querySelector("main"));
    document.querySelectorAll("details").forEach((d, i) => d.open = open[i] || false);
    seen = now;
  } catch { document.getElementById("lost").hidden = false; }
}, 3000);
</script>
"""


def watch(runs: list[str], port: Port = 8008, metric: str | None = None) -> None:
    """Serve a local page about running and finished runs that follows them. Ctrl-C ends it.

    Args:
        runs: Run folders, folders above them, or patterns. Runs that start later under a folder appear, too.
        port: Port on this machine, which nobody else can reach; 0 for any free one.
        metric: The number that is compared; by default one that all runs have.
    """
    board = Board(runs, metric)
    board.page()  # a mistake in the paths is told here
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), handler_of(board))
    except OSError as error:
        raise UserError(f"--port: expected a free port, got {port} ({error.strerror}). Add --port 0 for any") from error
    with contextlib.suppress(KeyboardInterrupt), server:
        print(f"http://127.0.0.1:{server.server_port} follows {', '.join(runs)}; Ctrl-C ends it", flush=True)
        server.serve_forever()


class Board:
    """The page, which is made again when a file of a run has changed.

    Args:
        runs: As for `watch`.
        metric: As for `watch`.
    """

    def __init__(self, runs: Sequence[str], metric: str | None) -> None:
        self.runs, self.metric = list(runs), metric
        self._lock = threading.Lock()
        self._made: tuple[str, str] = ("", "")

    def signature(self) -> str:
        """A text that changes with any file that the page shows, and with the start and the end of a run."""
        digest = hashlib.sha256()
        for run in find_runs(self.runs, lambda note: None, measured=False):
            files = [run.folder / name for name in ("config.yaml", "metrics.csv", FAILED)]
            files += [*run.folder.glob("evaluations/*.json"), *run.folder.glob("pictures/*.png")]
            for file in sorted(files):
                with contextlib.suppress(FileNotFoundError):
                    digest.update(f"{file} {file.stat().st_mtime_ns}".encode())
            digest.update(str(is_locked(run.folder)).encode())
        return digest.hexdigest()[:16]

    def page(self) -> str:
        """The page about the current state of the runs.

        Raises:
            UserError: There are no runs.
        """
        with self._lock:
            now = self.signature()
            if now != self._made[0]:
                body = f"<main>{self.body()}</main>" + FOLLOW.replace("SIGNATURE", now)
                self._made = (now, document("pt-flows watch", body))
            return self._made[1]

    def body(self) -> str:
        """State, losses, and the comparison, or one section a run as long as they have no common number."""
        notes: list[str] = []
        runs = find_runs(self.runs, notes.append, measured=False)
        parts = ["<h1>Runs</h1>", html_table([state_of(run) for run in runs])]
        if (figure := losses_figure(runs)) is not None:
            parts.append(picture(png(figure), "losses of training against iterations"))
        try:
            parts.append(comparison(*comparable(self.runs, self.metric, notes.append), notes))
        except UserError as error:
            parts.append(html_list([f"no comparison yet: {error}", *notes]))
            parts += [section([run.method], run) for run in runs]
        return "\n".join(parts)


def state_of(run: Run) -> dict[str, str]:
    """A row about a run: what it is, how far it is, how fast, and when it last wrote."""
    planned = (run.config.get("trainer") or {}).get("max_steps", 0)
    file = run.folder / "metrics.csv"
    age = time.time() - file.stat().st_mtime if file.is_file() else float("nan")
    ended = "complete" if isinstance(planned, int) and 0 < planned <= run.iteration else "stopped"
    state = "failed" if run.failure is not None else "training" if is_locked(run.folder) else ended
    seconds = [row["cost/seconds"] for row in run.rows if "cost/seconds" in row][-1:]
    speed = f"{run.iteration / seconds[0]:.3g}" if seconds and seconds[0] else ""
    left = (planned - run.iteration) * seconds[0] / run.iteration / 60 if speed and run.iteration else 0.0
    return {
        "run": run.folder.name,
        "method": run.method,
        "seed": str(run.seed),
        "state": state,
        "iteration": f"{run.iteration:,}",
        "of": f"{planned:,}" if isinstance(planned, int) else str(planned),
        "iterations a second": speed,
        "minutes left": f"{left:.0f}" if state == "training" else "",
        "last row": f"{age:.0f} s ago" if age < 120 else f"{age / 60:.0f} min ago" if age == age else "none",
    }


def losses_figure(runs: Sequence[Run]) -> Any:
    """Curves of every logged loss, a panel for each name and a colour for each run; None without losses."""
    from matplotlib.figure import Figure

    names = sorted({name for run in runs for row in run.rows for name in row if name.startswith("train/loss")})
    if not names:
        return None
    figure = Figure(figsize=(5 * min(len(names), 2), 3 * -(-len(names) // 2)), layout="constrained")
    axes = iter(figure.subplots(-(-len(names) // 2), min(len(names), 2), squeeze=False).flat)
    for name, axis in zip(names, axes, strict=False):
        for i, run in enumerate(runs):
            points = [(row["iteration"], row[name]) for row in run.rows if name in row and "iteration" in row]
            label = f"{run.method}, seed {run.seed}"
            axis.plot([t for t, _ in points], [v for _, v in points], lw=1, color=f"C{i % 10}", label=label)
        axis.set(title=name, xlabel="iteration")
        axis.grid(alpha=0.3)
    for axis in axes:  # those that are left
        axis.remove()
    if len(runs) <= 10:
        figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def handler_of(board: Board) -> type[BaseHTTPRequestHandler]:
    """The answers of the server: the page, and the signature that tells whether it has changed."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer a request."""
            if self.path not in ("/", "/state"):
                self.send_error(404, "pt-flows watch has one page: /")
                return
            try:
                text = board.page() if self.path == "/" else board.signature()
            except UserError as error:  # the folders were removed
                text = document("pt-flows watch", f"<main><p>{escape(str(error))}</p></main>")
            kind = "text/html" if self.path == "/" else "text/plain"
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):
                self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing about requests."""

    return Handler
