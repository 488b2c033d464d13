"""A headless Chromium that tests drive through its pipe of DevTools messages:
no WebDriver, no package. Everything that the page asks of the network, says on
its console or throws is kept."""
import json
import os
import select
import shutil
import subprocess
import tempfile
import time


class Browser:
    def __init__(self, program="chromium", seconds=120):
        self.seconds = seconds  # that an answer may take, on a busy machine
        self.profile = tempfile.mkdtemp(prefix="keystep-browser-")
        to_read, self.to = os.pipe()
        self.back, to_write = os.pipe()
        wanted = {3: to_read, 4: to_write}

        def place():  # DevTools reads 3 and writes 4
            high = [os.dup(fd) for fd in wanted.values()]
            for name, fd in zip(wanted, high):
                os.dup2(fd, name)

        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu",
             "--disable-dev-shm-usage", "--disable-extensions",
             "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--hide-scrollbars",
             "--force-device-scale-factor=1", "--remote-debugging-pipe",
             f"--user-data-dir={self.profile}", "about:blank"],
            preexec_fn=place, close_fds=False, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True)
        os.close(to_read)
        os.close(to_write)
        self.buffer = b""
        self.last = 0
        self.requests, self.words, self.answered = [], [], []
        target = self.call("Target.createTarget", url="about:blank")
        self.session = self.call("Target.attachToTarget", flatten=True,
                                 targetId=target["targetId"])["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.on(f"{domain}.enable")

    def close(self):
        try:
            os.write(self.to, b'{"id":0,"method":"Browser.close"}\0')
            self.process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
        shutil.rmtree(self.profile, ignore_errors=True)

    def message(self):
        deadline = time.monotonic() + self.seconds
        while b"\0" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.back], [], [], left)[0]:
                raise TimeoutError("the browser does not answer")
            got = os.read(self.back, 1 << 20)
            if not got:
                raise EOFError("the browser has ended")
            self.buffer += got
        one, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(one)

    def note(self, message):
        method, about = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif method == "Network.responseReceived":
            self.answered.append(about["response"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.words.append("thrown: " + details.get("exception", {}).get(
                "description", details["text"]))
        elif method == "Runtime.consoleAPICalled":
            self.words.append(f"{about['type']}: {about['args']}")
        elif method == "Log.entryAdded":
            self.words.append(f"log: {about['entry']['text']}")

    def send(self, message):
        self.last += 1
        message["id"] = self.last
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.message()
            if answer.get("id") == self.last:
                if "error" in answer:
                    raise RuntimeError(answer["error"]["message"])
                return answer["result"]
            self.note(answer)

    def call(self, method, **parameters):
        return self.send({"method": method, "params": parameters})

    def on(self, method, **parameters):
        """Of the page."""
        return self.send({"method": method, "params": parameters,
                          "sessionId": self.session})

    def js(self, source):
        answer = self.on("Runtime.evaluate", expression=source,
                         returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get(
                "description", details["text"]))
        return answer["result"].get("value")

    def wait(self, source, seconds=60):
        """Until the expression is true."""
        end = time.monotonic() + seconds
        while not self.js(f"Boolean({source})"):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {source}")
            time.sleep(0.03)

    def open(self, url):
        self.on("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && typeof keystep !== 'undefined'")
        self.settle()

    def settle(self):
        """Two frames: sizes are known and what hangs on them is drawn."""
        self.js("new Promise(d => requestAnimationFrame(() => requestAnimationFrame(d)))")

    def size(self, width, height, dark=False, phone=False):
        self.on("Emulation.setDeviceMetricsOverride", width=width,
                height=height, deviceScaleFactor=1, mobile=phone)
        self.on("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.settle()

    def key(self, key, text=None):
        codes = {"ArrowDown": 40, "ArrowUp": 38, "ArrowLeft": 37,
                 "ArrowRight": 39, "Escape": 27, "Tab": 9, "Enter": 13}
        text = key if text is None and len(key) == 1 else text
        code = codes.get(key, ord(key.upper()) if len(key) == 1 else 0)
        one = {"key": key, "windowsVirtualKeyCode": code}
        if key == "Enter":
            text = "\r"
        if text:
            one["text"] = text
        self.on("Input.dispatchKeyEvent", type="keyDown", **one)
        self.on("Input.dispatchKeyEvent", type="keyUp", key=key,
                windowsVirtualKeyCode=code)

    def click(self, selector):
        """By the mouse, in the middle of the element."""
        place = self.js(f"""(() => {{
            const node = document.querySelector({json.dumps(selector)});
            node.scrollIntoView({{block: 'center'}});
            const box = node.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()""")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.on("Input.dispatchMouseEvent", type=kind, x=place[0],
                    y=place[1], button="none" if kind == "mouseMoved" else
                    "left", clickCount=0 if kind == "mouseMoved" else 1)

    def picture(self, path, whole=False):
        import base64
        shot = self.on("Page.captureScreenshot", format="png",
                       captureBeyondViewport=whole)
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))
