"""examples/notebook.ipynb in a real kernel, and what only a kernel can show: being interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from waiting import short_temp

NOTEBOOK = Path(__file__).parent.parent / "examples" / "notebook.ipynb"

pytest.importorskip("ipykernel", reason="a notebook needs a kernel")
pytest.importorskip("nbclient", reason="a notebook needs somebody to run it")

# Each executes in a process of its own: neither the event loop nor the warnings of the notebook's
# libraries are a matter of the tests.
EXECUTE = """\
import json, sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
print(json.dumps([cell.get("outputs") for cell in notebook.cells]))
"""

# A kernel that is interrupted the way Jupyter's button does it, once an item is known to run.
INTERRUPT = """\
import json, sys
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="python3")

def outputs_until(request, wanted):
    while True:
        message = client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") == request and wanted(message):
            return message

def run(code):
    request = client.execute(code)
    reply = client.get_shell_msg(timeout=60)["content"]
    stream = outputs_until(request, lambda m: m["msg_type"] in ("stream", "error"))["content"]
    return reply["status"], stream.get("text", stream.get("ename")).strip()  # the newline may follow

found = {}
found["before"] = run(sys.argv[1])
# An error would else abort what is asked of the kernel in the moment after it.
request = client.execute(sys.argv[2], stop_on_error=False)
outputs_until(request, lambda m: m["msg_type"] == "stream" and "running" in m["content"]["text"])
manager.interrupt_kernel()
reply = client.get_shell_msg(timeout=60)["content"]
found["interrupted"] = reply["status"], reply.get("ename")
found["after"] = run(sys.argv[1])
found["left"] = run(sys.argv[3])
client.stop_channels()
manager.shutdown_kernel()
print(json.dumps(found))
"""

CALL = "from parmap import pmap; print(list(pmap(lambda x: x + 1, range(4), parallel=True)))"
ENDLESS = """\
import pathlib, tempfile, threading, time
import parmap
began = pathlib.Path(tempfile.mkdtemp()) / "began"
def endless(n):
    began.touch()
    time.sleep(600)
def tell():
    while not began.exists():
        time.sleep(0.01)
    print("running", flush=True)
threading.Thread(target=tell).start()
list(parmap.pmap(endless, range(4), parallel=True, max_workers=2))
"""
# After the interrupted call, nobody sleeps on: the one worker or two that are left answer at once.
LEFT = "began.unlink(); began.parent.rmdir(); print(len(list(pmap(abs, range(9), parallel=True))))"


def executed(program: str, *arguments: str) -> Any:
    with short_temp() as temp:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, *arguments],
            env={**os.environ, "TMPDIR": temp}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def outputs() -> list[list[dict[str, Any]]]:
    """What each code cell of the notebook shows, from top to bottom."""
    cells = executed(EXECUTE, os.fspath(NOTEBOOK))
    return [shown for shown in cells if shown is not None]


def printed(shown: list[dict[str, Any]]) -> str:
    return "".join(output["text"] for output in shown if output.get("name") == "stdout")


def test_closures_and_classes_of_cells_cross_and_come_back(outputs: list[Any]) -> None:
    """As this very class, which `isinstance` sees."""
    assert "Town(name='Berg', people=13200)" in printed(outputs[1])
    assert printed(outputs[1]).endswith("True\n")


def test_a_function_that_was_redefined_is_the_one_that_runs(outputs: list[Any]) -> None:
    """In workers that are warm from the old one."""
    assert printed(outputs[2]) == "[0, 2, 4, 6, 8]\n"
    assert printed(outputs[3]) == "[0, 100, 200, 300, 400]\n"
    assert printed(outputs[4]) == "{1}\n{2}\n"


def test_the_bar_is_the_notebook_s_own(outputs: list[Any]) -> None:
    """A widget, and nothing on stderr."""
    assert [
        o for o in outputs[5] if "application/vnd.jupyter.widget-view+json" in o.get("data", {})
    ]
    assert printed(outputs[5]).startswith("4950 ")
    assert [o for shown in outputs for o in shown if o.get("name") == "stderr"] == []


def test_the_notebook_is_kept_without_outputs() -> None:
    """They would change with every run, and hide a change of the program."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"]] == []


def test_interrupting_the_kernel_ends_the_call_and_nothing_else() -> None:
    """KeyboardInterrupt in the cell; the next one has workers, and none is asleep in the old call."""
    found = executed(INTERRUPT, CALL, ENDLESS, LEFT)
    assert found["before"] == ["ok", "[1, 2, 3, 4]"]
    assert found["interrupted"] == ["error", "KeyboardInterrupt"]
    assert found["after"] == ["ok", "[1, 2, 3, 4]"]
    assert found["left"] == ["ok", "9"]
