"""Capture docs/img/bar-notebook.png: Jupyter Notebook in a browser, its cell running in a kernel.

python docs/pictures/notebook.py     (needs notebook, ipywidgets, selenium, chromium-driver)
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import nbformat
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

TARGET = Path(__file__).parent.parent / "img" / "bar-notebook.png"
ADDRESS = "http://127.0.0.1:8899"

CELL = """\
import time
from parmap import pmap

def page(n):
    time.sleep(0.1)
    return n

pages = list(pmap(page, range(600), max_workers=8, progress="pages"))"""


def served(folder: str) -> subprocess.Popen[bytes]:
    """A notebook server, once it answers."""
    server = subprocess.Popen(
        [
            sys.executable, "-m", "notebook", "--no-browser", f"--port={ADDRESS[-4:]}",
            "--allow-root", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}",
        ],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while server.poll() is None:
        try:
            urllib.request.urlopen(ADDRESS + "/api", timeout=5).close()
        except OSError:
            time.sleep(0.1)
            continue
        return server
    raise SystemExit("the notebook server did not start")


def photographed(address: str, target: Path) -> None:
    """Run the cell as a person does, and look when the bar is past its middle."""
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=900,580"):
        options.add_argument(argument)
    browser = webdriver.Chrome(
        options=options, service=webdriver.ChromeService("/usr/bin/chromedriver")
    )
    try:
        browser.get(address)
        patience = WebDriverWait(browser, 60)
        patience.until(lambda page: page.find_elements(By.CSS_SELECTOR, ".jp-CodeCell .cm-content"))
        patience.until(lambda page: "Idle" in page.page_source or "idle" in page.page_source)
        browser.find_element(By.CSS_SELECTOR, ".jp-CodeCell .cm-content").click()
        ActionChains(browser).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(
            Keys.CONTROL
        ).perform()
        patience.until(
            lambda page: re.search(
                r"\b6\d%", page.find_element(By.CSS_SELECTOR, ".jp-OutputArea").text
            )
        )
        browser.save_screenshot(str(target))
    finally:
        browser.quit()


with tempfile.TemporaryDirectory() as folder:
    cells = [nbformat.v4.new_code_cell(CELL)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, Path(folder, "pages.ipynb"))
    server = served(folder)
    try:
        photographed(ADDRESS + "/notebooks/pages.ipynb", TARGET)
    finally:
        server.terminate()
        server.wait()
print(TARGET)
