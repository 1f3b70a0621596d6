"""The local page that follows runs."""

import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from filelock import FileLock
from PIL import Image
from test_compare import fake_run

from pt_flows.cli.main import main
from pt_flows.compare.runs import find_runs
from pt_flows.compare.watch import Board, handler_of, state_of


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs with three measurements each."""
    for seed in (0, 1):
        fake_run(tmp_path / "runs" / f"a-{seed}", seed, "W1FE", [3.0, 2.0, 1.0 + seed])
    return tmp_path / "runs"


@pytest.fixture
def server(runs: Path) -> Iterator[str]:
    """Address of a server about the runs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_of(Board([str(runs)], None))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return answer.read().decode()


def test_page_follows_the_runs(runs: Path, server: str) -> None:
    before, page = read(f"{server}state"), read(server)
    assert before in page
    assert page.count("complete") == 2
    assert "2 runs, compared by w2_1k" in page
    assert read(f"{server}state") == before
    with (runs / "a-0/metrics.csv").open("a") as file:
        file.write("40,0.5,240,4000\n")
    fake_run(runs / "later", 2, "WGANGP", [4.0])
    after, page = read(f"{server}state"), read(server)
    assert after not in ("", before)
    assert "later" in page
    assert "WGANGP" in page
    with pytest.raises(urllib.error.HTTPError, match="404"):
        read(f"{server}other")


def test_runs_without_numbers_are_shown(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "runs/a", 0, "W1FE", [])
    (folder / "pictures").mkdir()
    Image.new("L", (4, 4)).save(folder / "pictures/00000001.png")
    (folder / "metrics.csv").write_text("iteration,train/loss_D\n50,0.3\n100,0.2\n")
    text = Board([str(tmp_path)], None).page()
    assert "no comparison yet" in text
    assert "losses of training against iterations" in text
    assert "00000001" in text


def test_state_of_a_run(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "a", 0, "W1FE", [3.0, 2.0])
    row = lambda: state_of(find_runs([str(folder)], print)[0])
    assert row() | {"last row": ""} == {
        "run": "a", "method": "W1FE", "seed": "0", "state": "complete", "iteration": "20", "of": "20",
        "iterations a second": "0.167", "minutes left": "", "last row": "",
    }  # fmt: skip
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 20", "max_steps: 60"))
    assert row()["state"] == "stopped"
    with FileLock(folder / ".lock"):
        assert (row()["state"], row()["minutes left"]) == ("training", "4")
    (folder / "failed.txt").write_text("not finite")
    assert row()["state"] == "failed"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["nowhere"], r"nowhere: expected a run folder"), (["RUNS", "--port", "70000"], r"--port: expected .*70000")],
)
def test_mistakes_are_one_sentence(
    words: list[str], sentence: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", *(str(runs) if word == "RUNS" else word for word in words)]) == 2
    assert re.search(sentence, capsys.readouterr().err)


def test_used_port_is_one_sentence(runs: Path, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    port = server.rstrip("/").rpartition(":")[2]
    assert main(["watch", str(runs), "--port", port]) == 2
    assert f"--port: expected a free port, got {port}" in capsys.readouterr().err


@pytest.mark.slow
def test_interrupt_ends_it_in_order(runs: Path) -> None:
    command = [sys.executable, "-m", "pt_flows", "watch", str(runs), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        assert "2 runs" in read(address)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


class Growing(Board):
    """A board to which a run is added while somebody looks at it."""

    calls = 0

    def signature(self) -> str:
        """Add a run at the third look."""
        self.calls += 1
        if self.calls == 3:
            fake_run(Path(self.runs[0]) / "later", 2, "WGANGP", [4.0])
        return super().signature()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_shows_what_changes(runs: Path, width: int, tmp_path: Path) -> None:
    """The open page is renewed when a run is added."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_of(Growing([str(runs)], None))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
        flags += ["--virtual-time-budget=20000", f"--user-data-dir={tmp_path}/profile"]
        command = ["chromium", *flags, "--dump-dom", f"http://127.0.0.1:{server.server_port}/"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout
        server.shutdown()
    assert "3 runs, compared by w2_1k" in found
    assert "WGANGP" in found
