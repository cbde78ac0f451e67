"""Nothing of what people put into a CODEX_HOME for their desk starts or reaches the model.

Each case runs the program twice: on a CODEX_HOME full of such things, and on one with nothing but the provider. What the
model gets has to be the same.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import unittest

import harness
from harness import conversation, offered
from test_requests import LIMIT, foreign
from versions import LISTED, since, told

SECRET = "violet-hippopotamus"
SAID = [("system", "Be brief."), ("user", "first"), ("assistant", "answer"), ("user", "second")]
MESSAGES = [{"role": role, "content": text} for role, text in SAID]
# Everything in a body that is made anew for each thread or process.
FRESH = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|unix_ms\\*\": ?\d+|started_at[a-z_]*\\*\": ?\d+")


def setUpModule():
    global model
    model = harness.Model()


def tearDownModule():
    model.kill()


def features():
    """The name of every feature of this codex that a word switches on."""
    if not since(50):
        return []
    with tempfile.TemporaryDirectory() as home:
        env = {"PATH": os.environ["PATH"], "HOME": home, "CODEX_HOME": home}
        listed = subprocess.run([harness.codex_binary(), "features", "list"], env=env, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        names = [line.split()[0] for line in listed.stdout.splitlines()]
        # The others want more than a word.
        return [name for name in names if "." not in name and name != "rollout_budget"]


class Programs:
    """A script that leaves a mark when anybody starts it."""

    def __init__(self, directory):
        self.marks = directory / "marks"
        self.path = directory / "program"
        self.path.write_text(f'#!/bin/sh\necho "$0 $*" >> {self.marks}\nsleep 5\n')
        self.path.chmod(0o755)

    def started(self):
        return self.marks.read_text() if self.marks.exists() else ""


def provider():
    return model.config("desk", http_headers='{ "x-desk" = "yes" }', query_params='{ "desk" = "1" }')


def desk(home, program):
    """The files of a CODEX_HOME that somebody has worked with for a year."""
    hook = {"hooks": [{"type": "command", "command": f"{program} hook"}]}
    servers = "".join(
        f'[mcp_servers.{name}]\ncommand = "{program}"\nargs = ["{name}"]\n{more}\n'
        for name, more in (("one", ""), ("two", "startup_timeout_sec = 1"), ("three", f'env = {{ TOKEN = "{SECRET}" }}'))
    )
    config = f"""
model = "{LISTED}"
model_instructions_file = "{home}/instructions.md"
developer_instructions = "{SECRET} developer"
compact_prompt = "{SECRET} compact"
model_reasoning_effort = "high"
model_reasoning_summary = "detailed"
model_verbosity = "high"
model_auto_compact_token_limit = 2000
service_tier = "flex"
personality = "pragmatic"
notify = ["{program}", "notify"]
project_doc_max_bytes = 100000
project_doc_fallback_filenames = ["CLAUDE.md"]
approval_policy = "on-request"
sandbox_mode = "danger-full-access"
web_search = "live"
{provider()}
{servers}
[mcp_servers.web]
url = "http://127.0.0.1:{model.port}/mcp"
[otel]
environment = "{SECRET}"
log_user_prompt = true
exporter = {{ otlp-http = {{ endpoint = "http://127.0.0.1:{model.port}/otel", protocol = "json" }} }}
[profiles.work]
model = "gpt-5"
developer_instructions = "{SECRET} profile"
[projects."{home}"]
trust_level = "trusted"
[projects."{home.parent}"]
trust_level = "trusted"
[agents.helper]
description = "{SECRET} agent"
[skills]
config = [{{ path = "{home}/skills/desk/SKILL.md", enabled = true }}]
[shell_environment_policy]
set = {{ DESK = "{SECRET}" }}
[features]
{"".join(f"{name} = true" + chr(10) for name in features())}
"""
    return {
        "config.toml": config, "instructions.md": f"{SECRET} instructions",
        "AGENTS.md": f"{SECRET} agents", "AGENTS.override.md": f"{SECRET} override", "CLAUDE.md": f"{SECRET} claude",
        "skills/desk/SKILL.md": f"---\nname: desk\ndescription: {SECRET} skill\n---\n{SECRET}",
        "prompts/desk.md": SECRET, "rules/default.rules": 'prefix_rule(pattern=["ls"], decision="allow")\n',
        "memories/MEMORY.md": SECRET, "memories/memory_summary.md": SECRET,
        ".env": f"MOCK_KEY={SECRET}\nHTTP_PROXY=http://127.0.0.1:1\nOPENAI_BASE_URL=http://127.0.0.1:1\n",
        "hooks.json": json.dumps({"hooks": {event: [hook] for event in
                                            ("SessionStart", "UserPromptSubmit", "PreToolUse", "Stop")}}),
        "history.jsonl": json.dumps({"session_id": "x", "ts": 1, "text": SECRET}) + "\n",
    }


def repository(program):
    """What a repository around a CODEX_HOME may hold."""
    return {
        ".git/HEAD": "ref: refs/heads/main\n", ".git/config": "[core]\n", "AGENTS.md": f"{SECRET} repository",
        ".agents/skills/up/SKILL.md": f"---\nname: up\ndescription: {SECRET} up\n---\n{SECRET}",
        ".codex/config.toml": f'developer_instructions = "{SECRET} project"\n[mcp_servers.up]\ncommand = "{program}"\n',
        ".codex/skills/up/SKILL.md": f"---\nname: up2\ndescription: {SECRET} up\n---\n{SECRET}",
    }


class Desk(unittest.TestCase):
    def setUp(self):
        model.reset()
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="e2e-desk-"))
        self.addCleanup(shutil.rmtree, self.place)
        self.programs = Programs(self.place)

    def sent(self, home, files, env=None):
        """What the model gets for the messages, and every program that was a child of the proxy's meanwhile."""
        since, seen, over = len(model.requests()), {}, threading.Event()
        home.mkdir(parents=True, exist_ok=True)
        proxy = harness.Proxy(model, env, files, home, wait=False)

        def watch():
            while not over.wait(0.002):
                for child in harness.descendants(proxy.process.pid):
                    seen[child.pid] = (child.parent, " ".join(child.arguments()))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            try:
                proxy.wait_until_ready()
            except AssertionError:
                print(proxy.process.stderr())
                raise
            status, _, text = proxy.post({"messages": MESSAGES})
            self.assertEqual((status, json.loads(text)["choices"][0]["message"]["content"]), (200, "second"), text)
            family = harness.descendants(proxy.process.pid)
            self.assertEqual(proxy.stop(), 0)
            log = proxy.process.stderr()
        finally:
            over.set()
            watcher.join()
            proxy.close()
        self.assertEqual([child.pid for child in family if child.alive()], [])
        self.assertEqual(self.programs.started(), "")
        # Codex itself asks `lsb_release`, `uname` and `getconf` for its user agent, and git (0.104) for the repository it is in. Between fork and exec a child shows its parent's name.
        by_codex = {line for parent, line in seen.values() if seen.get(parent, ("", ""))[1].startswith(harness.codex_binary())}
        known = (harness.codex_binary(), "lsb_release", "uname -m", "getconf LONG_BIT", "git rev-parse")
        self.assertEqual([line for line in by_codex if line and not any(words in line for words in known)], [])
        requests = model.requests(since)
        (request,) = requests
        self.assertNotIn(SECRET, json.dumps(requests))
        self.assertNotIn(SECRET, log)
        return request

    def test_as_if_it_were_empty(self):
        empty = self.sent(self.place / "empty", {"config.toml": f'model = "{LISTED}"\n' + provider()})
        home = self.place / "repo/desk/home"
        for name, text in repository(self.programs.path).items():
            path = self.place / "repo" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        user = {"HOME": str(self.place / "repo")}
        full = self.sent(home, desk(home, self.programs.path), user)
        for part in ("path", "body", "headers"):
            # Where codex tells of its directory, that is another one.
            bodies = (re.sub(rf'{self.place}[^<]*/scratch|"content-length": "\d+"', "", json.dumps(request[part])) for request in (full, empty))
            self.assertEqual(*(FRESH.sub("", body) for body in bodies))
        body = full["body"]
        self.assertEqual((conversation(body), offered(body)), (told(SAID), []))
        self.assertLess(foreign(body, SAID), LIMIT, body)
        self.assertEqual((full["headers"]["x-desk"], full["path"]), ("yes", "/v1/responses?desk=1"))
        self.assertEqual(full["headers"]["authorization"], f"Bearer {harness.MOCK_KEY}")


if __name__ == "__main__":
    unittest.main()
