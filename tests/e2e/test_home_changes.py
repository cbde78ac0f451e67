"""Files that change under a running proxy: in use within two seconds, and no client notices."""

import json
import os
import pathlib
import shutil
import signal
import tempfile
import threading
import time
import unittest

import harness
from harness import ask, eventually
from versions import NEWEST, VERSION

IN_USE = 2.0


def setUpModule():
    global model
    model = harness.Model()


def tearDownModule():
    model.kill()


class Load:
    """Clients that ask one completion after the other, of a model that takes its time: what is shown is that no request
    fails, not how many this machine can do."""

    def __init__(self, proxy, clients=4):
        self.proxy, self.over, self.answers, self.failures = proxy, threading.Event(), 0, []
        self.threads = [threading.Thread(target=self._work) for _ in range(clients)]

    def _work(self):
        while not self.over.is_set():
            try:
                status, _, text = self.proxy.post(ask("hello [[wait 50]]"))
                if status == 200 and json.loads(text)["choices"][0]["message"]["content"] == "hello":
                    self.answers += 1
                else:
                    self.failures.append((status, text))
            except Exception as failure:  # noqa: BLE001 - counted
                self.failures.append(repr(failure))

    def more(self, count=20):
        """Waits for that many further answers."""
        enough = self.answers + count
        eventually("the load goes on", lambda: self.answers >= enough or self.failures)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.more()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()


class Base(unittest.TestCase):
    def setUp(self):
        model.reset()

    def proxy(self, files, env=None, **more):
        proxy = harness.Proxy(model, env, files, **more)
        self.addCleanup(proxy.close)
        return proxy

    def busy(self):
        """What a machine that is busy with something else may take for a change: three times what a start takes now."""
        began = time.monotonic()
        harness.Proxy(model).close()
        return 3 * (time.monotonic() - began)

    def steady(self, proxy, what, change, in_use):
        """Makes changes under load; no request may ever fail, and one has to be in use in time. Both functions get the
        number of the change."""
        times = []
        with Load(proxy) as load:
            while len(times) < 3:
                began = time.monotonic()
                change(len(times))
                eventually(what, lambda: in_use(len(times)), 20)
                times.append(time.monotonic() - began)
                if times[-1] < IN_USE or times[-1] < self.busy():
                    break
            else:
                self.fail(f"{what} after {times} s")
            load.more()
        self.assertEqual(load.failures, [])
        print(f"\n  {VERSION}: {what} after {times[-1] * 1000:.0f} ms, {load.answers} answers meanwhile")

    def serving(self, proxy):
        """Those that answer requests; another one may be reading a configuration."""
        return [seen for seen in proxy.app_servers() if any("model_catalog_json" in argument for argument in seen.arguments())]

    def spawned(self, proxy):
        return proxy.process.stderr().count("spawning (app-server)")


def keys():
    return {request["headers"].get("authorization") for request in model.requests() if request["method"] == "POST"}


def key_file(key):
    return json.dumps({"OPENAI_API_KEY": key})


def replace(path, text):
    """As an editor or a login does it: a new file in the place of the old one."""
    part = path.with_name(path.name + ".new")
    part.write_text(text)
    part.chmod(0o600)
    part.rename(path)


class Credentials(Base):
    def gateway(self, key=None, **more):
        files = {"config.toml": f'openai_base_url = "{model.url}"\n'}
        return self.proxy({**files, **({"auth.json": key_file(key)} if key else {})}, **more)

    def test_another_key(self):
        proxy = self.gateway("sk-first")
        path = proxy.home / "auth.json"
        self.steady(proxy, "another key, written in place", lambda number: path.write_text(key_file(f"sk-place-{number}")),
                    lambda number: f"Bearer sk-place-{number}" in keys())
        self.steady(proxy, "another key, a new file", lambda number: replace(path, key_file(f"sk-new-{number}")),
                    lambda number: f"Bearer sk-new-{number}" in keys())
        used = [request["headers"]["authorization"] for request in model.requests() if request["method"] == "POST"]
        self.assertEqual(used[0], "Bearer sk-first")
        self.assertTrue(used[-1].startswith("Bearer sk-new-"))

    def test_the_first_login(self):
        proxy = self.gateway(wait=False)
        eventually("it says why not", lambda: "codex login" in proxy.get("/readyz")[1])
        self.assertEqual(proxy.post(ask("hello"))[0], 401)
        # A request right after it finds it.
        replace(proxy.home / "auth.json", key_file("sk-late"))
        status, _, text = proxy.post(ask("hello"))
        self.assertEqual(status, 200, text)
        self.assertEqual(keys(), {"Bearer sk-late"})
        proxy.wait_until_ready(2 * IN_USE)

    def test_the_first_login_without_a_request(self):
        proxy = self.gateway(wait=False)
        eventually("it says why not", lambda: "codex login" in proxy.get("/readyz")[1])
        (proxy.home / "auth.json").write_text(key_file("sk-late"))
        proxy.wait_until_ready(2 * IN_USE)

    def test_a_logout(self):
        proxy = self.gateway("sk-first")
        (proxy.home / "auth.json").unlink()
        eventually("it says so", lambda: "codex login" in proxy.get("/readyz")[1], 2 * IN_USE)
        self.assertEqual(proxy.post(ask("hello"))[0], 401)


class Configuration(Base):
    def test_another_provider(self):
        other = harness.Model()
        self.addCleanup(other.kill)
        proxy = self.proxy({"config.toml": model.config()})
        path = proxy.home / "config.toml"
        self.steady(proxy, "another provider", lambda number: path.write_text(other.config(f"other-{number}")),
                    lambda _: other.turns())
        count = len(model.requests())
        self.assertEqual(proxy.post(ask("hello"))[0], 200)
        self.assertEqual(len(model.requests()), count)

    def test_another_model(self):
        def models():
            return {body["model"] for body in model.turns()}

        proxy = self.proxy({"config.toml": 'model = "first"\n' + model.config()})
        path = proxy.home / "config.toml"
        body = {"messages": ask("hello")["messages"]}
        self.assertEqual(proxy.post(body)[0], 200)
        self.assertEqual(models(), {"first"})
        replace(path, 'model = "second"\n' + model.config())
        eventually("it is in use", lambda: proxy.post(body)[0] == 200 and "second" in models(), 2 * IN_USE)

    def test_a_file_that_is_being_written(self):
        """What stands there for a moment is never used where something else serves."""
        # An empty configuration would do: with this key it means codex's own service.
        proxy = self.proxy({"config.toml": model.config(), "auth.json": key_file("sk-unused")})
        path = proxy.home / "config.toml"
        with Load(proxy) as load:
            spawned = self.spawned(proxy)
            path.write_text("")
            eventually("a codex is started on it", lambda: self.spawned(proxy) > spawned, 5)
            path.write_text(model.config(http_headers='{ "x-new" = "yes" }'))
            eventually("it is in use", lambda: any("x-new" in request["headers"] for request in model.requests()))
            load.more()
        self.assertEqual(load.failures, [])

    def test_one_that_codex_refuses(self):
        proxy = self.proxy({"config.toml": model.config()})
        path = proxy.home / "config.toml"
        first = proxy.app_server().pid
        with Load(proxy) as load:
            path.write_text('model_provider = "mock\n')
            eventually("it says so", lambda: "does not take config.toml" in proxy.process.stderr(), 5)
            # Not tried again and again.
            before = self.spawned(proxy)
            load.more(40)
            self.assertEqual([seen.pid for seen in proxy.app_servers()], [first])
            self.assertTrue(proxy.ready())
        self.assertEqual(load.failures, [])
        said = [line for line in proxy.process.stderr().splitlines() if "config.toml" in line]
        self.assertEqual(len(said), 1, said)
        self.assertEqual(self.spawned(proxy), before)
        self.assertNotIn("panicked", proxy.process.stderr())
        # Bad for a while in many ways, good again: in use at once.
        for number in range(7):
            path.write_text(f"not toml {number}")
            self.assertEqual(proxy.post(ask("hello"))[0], 200)
            eventually("it was looked at", lambda: proxy.process.stderr().count("does not take") == number + 2, 5)
        self.steady(proxy, "the repaired configuration",
                    lambda number: path.write_text(model.config(http_headers=f'{{ "x-new" = "{number}" }}')),
                    lambda number: any(request["headers"].get("x-new") == str(number) for request in model.requests()))

    def test_a_refused_one_with_nothing_in_service(self):
        proxy = self.proxy({"config.toml": 'model_provider = "mock\n'}, {"PROXY_QUEUE_MS": "200"}, wait=False)
        eventually("it says so", lambda: "config.toml" in proxy.get("/readyz")[1])
        status, text = proxy.get("/readyz")
        self.assertEqual(status, 503)
        self.assertIn("invalid basic string", text)
        self.assertNotIn(str(proxy.home), text)
        status, _, text = proxy.post(ask("hello"))
        self.assertEqual((status, json.loads(text)["error"]["code"]), (503, "backend_unavailable"))
        # By then it waits for a second between its attempts.
        self.assertFalse(threading.Event().wait(1.5))
        said = [line for line in proxy.process.stderr().splitlines() if "does not take config.toml" in line]
        self.assertEqual(len(said), 1, said)
        (proxy.home / "config.toml").write_text(model.config())
        proxy.wait_until_ready(2 * IN_USE)
        self.assertEqual(proxy.post(ask("hello"))[0], 200)

    def test_codex_as_it_comes(self):
        """With PROXY_AGENT_PROFILE=codex nothing is left out: instructions, AGENTS.md, tools."""
        place = pathlib.Path(tempfile.mkdtemp(prefix="e2e-profile-"))
        self.addCleanup(shutil.rmtree, place)
        files = {"config.toml": 'developer_instructions = "of the developer"\n' + model.config(), "AGENTS.md": "of the agents"}
        proxy = self.proxy(files, {"PROXY_AGENT_PROFILE": "codex"})
        self.assertEqual(proxy.post(ask("hello"))[0], 200)
        (body,) = model.turns()
        self.assertIn("of the developer", json.dumps(body))
        self.assertIn("of the agents", json.dumps(body))
        self.assertGreater(len(json.dumps(body)), 10_000)
        with open(f"/proc/{proxy.app_server().pid}/environ") as environ:
            self.assertIn(f"CODEX_HOME={proxy.home}\0", environ.read())
        (proxy.home / "config.toml").write_text(model.config(http_headers='{ "x-new" = "yes" }'))
        eventually("a change is in use", lambda: proxy.post(ask("hello"))[0] == 200 and
                   any("x-new" in request["headers"] for request in model.requests()), 2 * IN_USE)


if NEWEST:
    # One switch of versions is enough.
    class Binary(Base):
        def test_another_version(self):
            place = pathlib.Path(tempfile.mkdtemp(prefix="e2e-binary-"))
            self.addCleanup(shutil.rmtree, place)
            link, new = place / "codex", place / "codex.new"
            link.symlink_to(harness.codex_binary("0.146.0"))
            proxy = self.proxy({"config.toml": model.config()}, {"CODEX_BIN": str(link)})

            def version():
                return json.loads(proxy.get("/readyz")[1])["codex"]["version"]

            def switch(number):
                new.symlink_to(harness.codex_binary(versions[number]))
                new.rename(link)

            versions = ["0.169.0", "0.146.0", "0.169.0"]
            self.assertEqual(version(), "0.146.0")
            self.steady(proxy, "another binary", switch, lambda number: version() == versions[number])
            eventually("the old one has gone", lambda: len(proxy.app_servers()) == 1, 5)
            # Gone for a moment, as during an installation: what runs goes on.
            link.unlink()
            with Load(proxy) as load:
                load.more(50)
            self.assertEqual(load.failures, [])
            link.symlink_to(harness.codex_binary("0.142.5"))
            self.assertEqual(proxy.post(ask("hello"))[0], 200)


class Overlap(Base):
    def test_the_next_one_dies_while_the_old_one_finishes(self):
        """A generation that finishes its last turns is not taken for the one in service."""
        proxy = self.proxy({"config.toml": model.config()}, {"PROXY_APP_SERVER_GROWTH_MB": "4"})
        first = proxy.app_server()

        def next_one():
            self.assertEqual(proxy.post(ask("hello"))[0], 200)
            return next((seen for seen in self.serving(proxy) if seen.pid != first.pid), None)

        with proxy.request(ask("[[say a b]] [[gate last]]", stream=True)) as answer:
            answer.readline()
            second = eventually("the first one has grown", next_one)
            eventually("the next one serves", lambda: proxy.process.stderr().count("is ready after") == 2)
            began = time.monotonic()
            os.kill(second.pid, signal.SIGKILL)
            eventually("its death is seen", lambda: "ended (signal: 9" in proxy.process.stderr(), 2)
            status, _, text = proxy.post(ask("hello"))
            self.assertEqual(status, 200, text)
            self.assertLess(time.monotonic() - began, 3.0)
            self.assertTrue(first.alive())
            model.open_gate("last")
            self.assertIn(b"[DONE]", answer.read())
        eventually("the old one has gone", lambda: not first.alive(), 5)
        self.assertEqual(proxy.post(ask("hello"))[0], 200)


if __name__ == "__main__":
    unittest.main()
