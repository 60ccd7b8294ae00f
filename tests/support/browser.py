"""Know how to look at a page: headless Chromium, told what to do by its DevTools protocol over a pipe."""

import base64
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
DEADLINE = 30.0  # seconds


def program():
    """Return the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """A browser with one page; `errors` are what scripts and the network said."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        take, self._out = os.pipe()
        self._in, give = os.pipe()
        high = [fcntl.fcntl(each, fcntl.F_DUPFD, 100) for each in (take, give)]  # or one would be put upon the other

        def place():
            for number, each in enumerate(high, 3):
                os.dup2(each, number)

        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            [program() or PROGRAMS[0], *flags, f"--user-data-dir={self._folder.name}", "about:blank"],
            close_fds=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=place,  # noqa: PLW1509 - it puts descriptors in their places, and locks nothing
        )  # fmt: skip
        for each in (take, give, *high):
            os.close(each)
        self._numbers, self._rest, self._session = itertools.count(1), b"", None
        self.errors = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **members):
        """Have something done, and return what came of it."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": members}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                self._rest += os.read(self._in, 1 << 20)
            line, _, self._rest = self._rest.partition(b"\0")
            told = json.loads(line)
            if told.get("method") in {"Runtime.exceptionThrown", "Log.entryAdded"}:
                self.errors.append(json.dumps(told["params"])[:600])
            if told.get("id") == number:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']['message']}")
                return told["result"]

    def evaluate(self, script):
        """Return the value of a script in the page."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return done["result"].get("value")

    def until(self, script):
        """Wait until a script says that something is so."""
        end = time.monotonic() + DEADLINE
        while not self.evaluate(script):
            if time.monotonic() > end:
                raise TimeoutError(f"never so: {script}; {self.errors}")
            time.sleep(0.05)

    def open(self, url, size, scheme):
        """Open a page at a size, in light or dark."""
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=url)
        self.until("document.getElementById('live')?.dataset.state === 'live' && !!document.querySelector('.area')")

    def show(self, file, size):
        """Show a file that is a picture."""
        width, height = size
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=file.as_uri())
        self.until(f"location.href === '{file.as_uri()}' && document.readyState === 'complete'")

    def picture(self, path):
        """Write a picture of the whole page, once it is drawn."""
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))

    def small_picture(self, path, size, scale):
        """Write a small picture of the upper left part of a page, as WebP."""
        clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": scale}
        told = self.call("Page.captureScreenshot", format="webp", quality=70, clip=clip)
        path.write_bytes(base64.b64decode(told["data"]))

    def close(self):
        """End it."""
        self._process.terminate()
        self._process.wait()
        os.close(self._in), os.close(self._out)
        self._folder.cleanup()
