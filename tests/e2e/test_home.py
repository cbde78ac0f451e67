"""Whose credentials and models are used, and what of a person's desk is not."""

import json
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest

import harness
from harness import LISTED, NEWEST, ask, eventually
from test_requests import LIMIT, foreign

SECRET = "violet-hippopotamus"


def setUpModule():
    global model
    model = harness.Model()


def tearDownModule():
    model.kill()


class Desk(unittest.TestCase):
    """A CODEX_HOME with everything that people put into one."""

    def setUp(self):
        model.reset()
        self.marks = pathlib.Path(tempfile.mkdtemp(prefix="e2e-desk-"))
        self.addCleanup(shutil.rmtree, self.marks)
        program = self.marks / "program"
        program.write_text(f'#!/bin/sh\necho "$0 $*" >> {self.marks}/started\nsleep 5\n')
        program.chmod(0o755)
        config = f"""
developer_instructions = "{SECRET} developer"
model_reasoning_effort = "high"
model_verbosity = "high"
notify = ["{program}", "notify"]
project_doc_max_bytes = 100000
{model.config("desk", http_headers='{ "x-desk" = "yes" }', query_params='{ "desk" = "1" }')}
[mcp_servers.desk]
command = "{program}"
args = ["mcp"]
[features]
memories = true
web_search_request = true
"""
        files = {
            "config.toml": f'model = "{LISTED}"\n' + config,
            "AGENTS.md": f"{SECRET} agents", "AGENTS.override.md": f"{SECRET} override",
            "skills/desk/SKILL.md": f"---\nname: desk\ndescription: {SECRET} skill\n---\n{SECRET}",
            "prompts/desk.md": SECRET, "rules/desk.rules": "", ".env": f"MOCK_KEY={SECRET}\n",
            "hooks.json": json.dumps({"hooks": {"SessionStart": [{"hooks": [{"type": "command", "command": f"{program} hook"}]}]}}),
        }
        self.proxy = harness.Proxy(model, {"PROXY_REASONING": "on"}, files)
        self.addCleanup(self.proxy.close)

    def test_nothing_of_it_starts_or_reaches_the_model(self):
        with self.proxy.client() as client:
            answer = client.chat.completions.create(messages=[{"role": "user", "content": "hello"}], model="codex-5")
            self.assertEqual(answer.choices[0].message.content, "hello")
        (body,) = model.turns()
        self.assertEqual(body["model"], LISTED)
        self.assertNotIn(SECRET, json.dumps(model.requests()))
        self.assertLess(foreign(body, ["hello"]), LIMIT, body)
        self.assertNotEqual((body.get("reasoning") or {}).get("effort"), "high")
        self.assertNotIn("verbosity", body.get("text") or {})
        self.assertFalse((self.marks / "started").exists(), "a program of the desk was started")
        (request,) = [request for request in model.requests() if request["path"].split("?")[0].endswith("/responses")]
        self.assertEqual((request["headers"]["x-desk"], request["path"]), ("yes", "/v1/responses?desk=1"))
        self.assertEqual(request["headers"]["authorization"], f"Bearer {harness.MOCK_KEY}")


class Changes(unittest.TestCase):
    """New credentials and configuration are in use within two seconds, and nobody notices."""

    def steady(self, proxy, change, changed):
        """Asks again and again while `change` happens; fails on any failed request. Seconds until `changed`."""
        over, failures, answers = threading.Event(), [], []

        def load():
            with proxy.client() as client:
                while not over.is_set():
                    try:
                        answers.append(client.chat.completions.create(**ask("hello")).choices[0].message.content)
                    except Exception as failure:  # noqa: BLE001 - counted
                        failures.append(repr(failure))

        client = threading.Thread(target=load)
        client.start()
        try:
            eventually("the load runs", lambda: len(answers) > 10)
            began = time.monotonic()
            change()
            eventually("the change is in use", changed, 10)
            took = time.monotonic() - began
            enough = len(answers) + 20
            eventually("the load goes on", lambda: len(answers) > enough or failures)
        finally:
            over.set()
            client.join()
        self.assertEqual(failures, [])
        self.assertEqual(set(answers), {"hello"})
        return took

    def test_a_new_configuration(self):
        other = harness.Model()
        self.addCleanup(other.kill)
        proxy = harness.Proxy(model)
        self.addCleanup(proxy.close)
        took = self.steady(proxy, lambda: (proxy.home / "config.toml").write_text(other.config()), other.turns)
        self.assertLess(took, 2.0)

    def test_new_credentials(self):
        files = {"auth.json": '{"OPENAI_API_KEY":"sk-first"}', "config.toml": f'openai_base_url = "{model.url}"\n'}
        model.reset()
        proxy = harness.Proxy(model, files=files)
        self.addCleanup(proxy.close)

        def keys():
            return {request["headers"].get("authorization") for request in model.requests()}

        took = self.steady(proxy, lambda: (proxy.home / "auth.json").write_text('{"OPENAI_API_KEY":"sk-second"}'),
                           lambda: "Bearer sk-second" in keys())
        self.assertLess(took, 2.0)
        self.assertEqual(keys(), {"Bearer sk-first", "Bearer sk-second"})

    def test_no_login_then_one(self):
        proxy = harness.Proxy(model, files={"config.toml": f'openai_base_url = "{model.url}"\n'}, wait=False)
        self.addCleanup(proxy.close)
        eventually("it says why it is not ready", lambda: "login" in proxy.get("/readyz")[1])
        (proxy.home / "auth.json").write_text('{"OPENAI_API_KEY":"sk-late"}')
        proxy.wait_until_ready(3)

    def test_the_key_of_the_environment(self):
        proxy = harness.Proxy(model, {"OPENAI_API_KEY": "sk-environment"}, files={}, wait=False)
        self.addCleanup(proxy.close)
        proxy.wait_until_ready()
        self.assertEqual(subprocess.run(["grep", "-r", "sk-environment", proxy.home], stdout=subprocess.PIPE).stdout, b"")
        for seen in harness.descendants(proxy.process.pid):
            self.assertNotIn("sk-environment", " ".join(seen.arguments()))


class Traces(unittest.TestCase):
    """No word of a prompt or an answer stays on disk, and codex talks to nobody but the model."""

    def found(self, proxy):
        return subprocess.run(["grep", "-rl", SECRET, proxy.home], stdout=subprocess.PIPE, text=True).stdout

    def talk(self, proxy):
        with proxy.client() as client:
            for _ in range(3):
                client.chat.completions.create(**ask(f"{SECRET} asked [[say {SECRET} answered]]"))

    def test_on_disk(self):
        proxy = harness.Proxy(model)
        self.addCleanup(proxy.close)
        self.talk(proxy)
        if NEWEST:
            self.assertEqual(self.found(proxy), "")
        self.assertEqual(proxy.stop(), 0)
        self.assertEqual(self.found(proxy), "")
        self.assertNotIn(SECRET, proxy.process.stderr())

    def test_on_disk_after_a_kill(self):
        proxy = harness.Proxy(model)
        self.addCleanup(proxy.close)
        self.talk(proxy)
        family = harness.descendants(proxy.process.pid)
        proxy.process.signal(signal.SIGKILL)
        eventually("nothing of it is left", lambda: not any(seen.alive() for seen in family), 1)
        again = harness.Proxy(model, home=proxy.home)
        self.addCleanup(again.close)
        self.assertEqual(again.stop(), 0)
        self.assertEqual(self.found(again), "")

    def test_sockets(self):
        over, remotes = threading.Event(), set()
        proxy = harness.Proxy(model, wait=False)
        self.addCleanup(proxy.close)

        def watch():
            while not over.is_set():
                for seen in harness.descendants(proxy.process.pid):
                    remotes.update(port for _, port in seen.remotes())
                over.wait(0.002)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            proxy.wait_until_ready()
            self.assertEqual(proxy.post(ask("[[words 20]] [[gap 30]]"))[0], 200)
            # What codex does at its start, it does within its first second.
            over.wait(1.5)
        finally:
            over.set()
            thread.join()
        self.assertEqual(remotes, {model.port})


if __name__ == "__main__":
    unittest.main()
