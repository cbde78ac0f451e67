"""Where codex runs, who shares that place, and what is left of it: after a stop, after a kill, on disk and in memory."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import unittest

import harness
from harness import ask, eventually, in_parallel
from versions import NEWEST

SECRET = "violet-hippopotamus"
# Becomes a program for which permissions count even when root starts it.
UNPRIVILEGED = [sys.executable, "-c", """
import ctypes, os, sys
PR_CAPBSET_DROP, CAPABILITIES = 24, (1, 2, 3)  # dac_override, dac_read_search, fowner
if os.geteuid() == 0:
    for capability in CAPABILITIES:
        if ctypes.CDLL(None, use_errno=True).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            sys.exit("capabilities cannot be dropped")
os.execv(sys.argv[1], sys.argv[1:])
"""]


def setUpModule():
    global model
    model = harness.Model()


def tearDownModule():
    model.kill()


def tree(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


class Base(unittest.TestCase):
    def setUp(self):
        model.reset()
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="e2e-place-"))
        self.addCleanup(shutil.rmtree, self.place, ignore_errors=True)

    def proxy(self, env=None, **more):
        proxy = harness.Proxy(model, env, **more)
        self.addCleanup(proxy.close)
        return proxy

    def hello(self, proxy):
        status, _, text = proxy.post(ask("hello"))
        self.assertEqual(status, 200, text)
        return json.loads(text)

    def homes(self, home):
        return {path.name for path in (home / "codex-completions").glob("home-*")}


class ReadOnly(Base):
    def test_a_home_that_cannot_be_written(self):
        home, temporary = self.place / "home", self.place / "tmp"
        for directory in (home, temporary):
            directory.mkdir()
        (home / "config.toml").write_text(f'openai_base_url = "{model.url}"\n')
        (home / "auth.json").write_text(json.dumps({"OPENAI_API_KEY": "sk-read-only"}))
        home.chmod(0o555)
        self.addCleanup(home.chmod, 0o755)
        before = tree(home)
        env = {"TMPDIR": str(temporary)}
        first, second = (self.proxy(env, home=home, prefix=UNPRIVILEGED) for _ in range(2))
        for proxy in (first, second):
            self.hello(proxy)
            degraded = json.loads(proxy.get("/readyz")[1])["codex"]["degraded"]
            self.assertTrue(any("CODEX_HOME cannot be written" in line for line in degraded), degraded)
        self.assertEqual({request["headers"]["authorization"] for request in model.requests()}, {"Bearer sk-read-only"})
        (own,) = temporary.iterdir()
        self.assertEqual(own.stat().st_mode & 0o777, 0o700)
        self.assertEqual(len(list(own.glob("home-*"))), 2)
        codex = first.app_server()
        os.kill(codex.pid, signal.SIGKILL)
        eventually("there is another", lambda: first.app_servers() and first.app_server().pid != codex.pid)
        self.hello(first)
        for proxy in (first, second):
            self.assertEqual(proxy.stop(), 0)
        self.assertEqual(tree(home), before)
        self.assertEqual(list(own.glob("home-*")), [])

    def test_nowhere_to_write(self):
        for name in ("home", "tmp"):
            (self.place / name).mkdir(mode=0o555)
        proxy = self.proxy({"TMPDIR": str(self.place / "tmp")}, home=self.place / "home", prefix=UNPRIVILEGED, wait=False)
        eventually("it says so", lambda: "can be written; make one of them writable" in proxy.get("/readyz")[1])
        self.assertNotIn(str(self.place), proxy.get("/readyz")[1])
        (self.place / "home").chmod(0o755)
        (self.place / "home/config.toml").write_text(model.config())
        proxy.wait_until_ready(10)


class Shared(Base):
    def test_several_on_one_home(self):
        (self.place / "config.toml").write_text(model.config())
        proxies = in_parallel(3, lambda _: harness.Proxy(model, home=self.place))
        for proxy in proxies:
            self.addCleanup(proxy.close)
        in_parallel(3, lambda number: self.hello(proxies[number]))
        self.assertEqual(len(self.homes(self.place)), 3)
        # What one leaves behind goes with the next start; what lives stays.
        homes = self.homes(self.place)
        proxies[0].process.signal(signal.SIGKILL)
        proxies[0].process.wait()
        again = self.proxy(home=self.place)
        self.assertEqual(len(self.homes(self.place)), 3)
        self.assertEqual(len(homes & self.homes(self.place)), 2)
        for proxy in (*proxies[1:], again):
            self.hello(proxy)
            self.assertEqual(proxy.stop(), 0)
        self.assertEqual(self.homes(self.place), set())
        for proxy in (*proxies[1:], again):
            self.assertNotIn("codex's own catalog is used", proxy.process.stderr())

    def test_a_catalog_that_was_kept_in_part(self):
        proxy = self.proxy(files={"config.toml": model.config()}, home=self.place)
        self.assertEqual(proxy.stop(), 0)
        (kept,) = (self.place / "codex-completions").glob("catalog-*")
        whole = kept.read_bytes()
        for part in (b"", whole[:1000]):
            kept.write_bytes(part)
            proxy = self.proxy(home=self.place)
            self.hello(proxy)
            self.assertEqual(proxy.stop(), 0)
            self.assertEqual(kept.read_bytes(), whole)

    def test_a_home_that_somebody_tidies_away(self):
        proxy = self.proxy(files={"config.toml": model.config()}, home=self.place)
        self.hello(proxy)
        shutil.rmtree(self.place / "codex-completions")
        eventually("it serves again", lambda: proxy.post(ask("hello"))[0] == 200 and self.homes(self.place), 5)
        for _ in range(3):
            self.hello(proxy)
        self.assertEqual(proxy.stop(), 0)
        self.assertEqual(self.homes(self.place), set())


class Killed(Base):
    def test_at_every_moment_of_its_start(self):
        """Nothing of it is left after a second, and the next start removes its home."""
        (self.place / "config.toml").write_text(model.config())
        for moment in range(8):
            proxy = self.proxy(home=self.place, wait=False)
            threading.Event().wait(moment * 0.05)
            proxy.process.signal(signal.SIGSTOP)
            family = harness.descendants(proxy.process.pid)
            proxy.process.signal(signal.SIGKILL)
            proxy.process.wait()
            eventually("nothing of it is left", lambda: not any(seen.alive() for seen in family), 1)
        proxy = self.proxy(home=self.place)
        self.hello(proxy)
        self.assertEqual(len(self.homes(self.place)), 1)
        self.assertEqual(proxy.stop(), 0)
        self.assertEqual(self.homes(self.place), set())
        self.assertEqual([name for name in tree(self.place / "codex-completions") if "catalog-" not in name],
                         ["installation_id", "lock"])

    def test_stopped_at_every_moment_of_its_start(self):
        (self.place / "config.toml").write_text(model.config())
        for moment in range(8):
            proxy = self.proxy(home=self.place, wait=False)
            threading.Event().wait(moment * 0.05)
            self.assertEqual(proxy.stop(5), 0)
            self.assertEqual(self.homes(self.place), set())


class Launcher(Base):
    """npm's layout: `bin/codex.js` starts the binary of the platform's package."""

    def npm(self, *parts):
        """A package with a launcher, and its native binary there."""
        triple = next(part for part in pathlib.Path(harness.codex_binary()).parts if part.endswith("-linux-musl"))
        package = self.place / "lib/node_modules/@openai/codex"
        native = package.joinpath(*parts, "vendor", triple, "bin/codex")
        native.parent.mkdir(parents=True)
        native.symlink_to(harness.codex_binary())
        launcher = package / "bin/codex.js"
        launcher.parent.mkdir()
        (package / "package.json").write_text('{"type":"module"}')
        launcher.write_text(f"""#!/usr/bin/env node
import {{ spawn }} from "node:child_process";
const child = spawn(process.env.NATIVE, process.argv.slice(2), {{ stdio: "inherit" }});
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(name, () => child.kill(name));
child.on("exit", (code, signal) => signal ? process.kill(process.pid, signal) : process.exit(code ?? 1));
""")
        launcher.chmod(0o755)
        link = self.place / "bin/codex"
        link.parent.mkdir()
        link.symlink_to(launcher)
        return native

    def proxy(self):
        path = f"{self.place}/bin:{os.environ['PATH']}"
        return super().proxy({"CODEX_BIN": "codex", "PATH": path, "NATIVE": harness.codex_binary()},
                             files={"config.toml": model.config()}, home=self.place / "home")

    def test_the_native_binary_is_started(self):
        for parts in (("..", "codex-linux-x64" if os.uname().machine == "x86_64" else "codex-linux-arm64"), ()):
            with self.subTest(parts):
                (self.place / "home").mkdir()
                native = self.npm(*parts)
                proxy = self.proxy()
                self.hello(proxy)
                family = harness.descendants(proxy.process.pid)
                self.assertEqual([seen.arguments()[0] for seen in family if seen.alive()], [os.path.normpath(native)])
                self.assertEqual(proxy.stop(), 0)
            for entry in self.place.iterdir():
                shutil.rmtree(entry)

    def test_the_launcher_alone(self):
        (self.place / "home").mkdir()
        self.npm().unlink()
        for end in (signal.SIGTERM, signal.SIGKILL):
            proxy = self.proxy()
            self.hello(proxy)
            self.assertIn("CODEX_BIN is a script", proxy.process.stderr())
            family = [seen for seen in harness.descendants(proxy.process.pid) if seen.alive()]
            self.assertEqual(len(family), 2)
            # Without its leader the group still serves or is replaced.
            leader = next(seen for seen in family if "codex.js" in " ".join(seen.arguments()))
            if end == signal.SIGTERM:
                os.kill(leader.pid, signal.SIGKILL)
                self.hello(proxy)
            proxy.process.signal(end)
            proxy.process.wait()
            eventually("nothing of it is left", lambda: not any(seen.alive() for seen in family), 1)


class Wrapped(Base):
    def test_a_script_around_codex(self):
        """It is started as it is, and measured with what it starts."""
        script = self.place / "codex"
        script.write_text(f'#!/bin/sh\n"{harness.codex_binary()}" "$@"\nexit $?\n')
        script.chmod(0o755)
        proxy = self.proxy({"CODEX_BIN": str(script), "PROXY_APP_SERVER_GROWTH_MB": "4"},
                           files={"config.toml": model.config()}, home=self.place / "home")
        for _ in range(20):
            self.hello(proxy)
        eventually("its growth is seen", lambda: self.hello(proxy) and "is replaced: its memory" in proxy.process.stderr(), 20)
        family = harness.descendants(proxy.process.pid)
        self.assertEqual(proxy.stop(), 0)
        self.assertEqual([seen.pid for seen in family if seen.alive()], [])


class Installation(Base):
    def number(self, proxy):
        model.reset()
        self.hello(proxy)
        (body,) = model.turns()
        return body["client_metadata"]["x-codex-installation-id"]

    def test_its_number_stays(self):
        proxy = self.proxy(files={"config.toml": model.config()}, home=self.place)
        number = self.number(proxy)
        codex = proxy.app_server()
        os.kill(codex.pid, signal.SIGKILL)
        eventually("there is another", lambda: proxy.app_servers() and proxy.app_server().pid != codex.pid)
        self.assertEqual(self.number(proxy), number)
        self.assertEqual(proxy.stop(), 0)
        (self.place / "installation_id").write_text("6f0b6dd5-0000-4000-8000-000000000000")
        self.assertEqual(self.number(self.proxy(home=self.place)), "6f0b6dd5-0000-4000-8000-000000000000")


class Traces(Base):
    """No word of a prompt or an answer stays on disk."""

    def found(self):
        found = subprocess.run(["grep", "-rla", "-e", SECRET, "-e", SECRET[::-1], self.place], stdout=subprocess.PIPE, text=True)
        return found.stdout.split()

    def proxy(self):
        for name in ("home", "user", "tmp"):
            (self.place / name).mkdir(exist_ok=True)
        # Whatever else it writes is looked at too.
        env = {"HOME": str(self.place / "user"), "TMPDIR": str(self.place / "tmp"), "RUST_LOG": "debug",
               "PROXY_DEBUG_APP_SERVER": "1"}
        return super().proxy(env, files={"config.toml": model.config()}, home=self.place / "home")

    def talk(self, proxy):
        messages = [{"role": role, "content": f"{SECRET} of the {role}"} for role in ("system", "user", "assistant")]
        messages.append({"role": "user", "content": f"{SECRET} [[reason {SECRET[::-1]}]] [[say {SECRET[::-1]} answered]]"})
        for stream in (False, True) * 3:
            status, _, text = proxy.post(ask("", messages=messages, stream=stream))
            self.assertEqual(status, 200)
            self.assertIn(SECRET[::-1], text)
        # One that is interrupted, and one that fails.
        with proxy.request(ask(f"{SECRET} [[say {SECRET[::-1]}]] [[hang]]", stream=True)) as answer:
            answer.readline()
        self.assertEqual(proxy.post(ask(f"{SECRET} [[fail 400 {SECRET[::-1]}]]"))[0] // 100, 4)

    def test_after_a_stop(self):
        proxy = self.proxy()
        self.talk(proxy)
        if NEWEST:
            self.assertEqual(self.found(), [])
        self.assertEqual(proxy.stop(), 0)
        self.assertEqual(self.found(), [])
        self.assertNotIn(SECRET, proxy.process.stderr())

    def test_after_a_kill_and_another_start(self):
        proxy = self.proxy()
        self.talk(proxy)
        proxy.process.signal(signal.SIGKILL)
        proxy.process.wait()
        again = self.proxy()
        self.assertEqual(self.found(), [])
        self.assertEqual(again.stop(), 0)
        self.assertEqual(self.found(), [])


if __name__ == "__main__":
    unittest.main()
