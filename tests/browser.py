"""Looking at a page with a headless browser; the fixture `browser` (conftest.py) finds one or skips the test."""

import subprocess
from pathlib import Path


def look(browser: str, folder: Path, page_file: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder}", "--virtual-time-budget=2000",
        *flags, page_file.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
