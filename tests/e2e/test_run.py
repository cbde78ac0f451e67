"""scripts/run --fake serves with a stand-in for codex, and leaves nothing running."""

import os
import signal
import tempfile
import unittest

import openai

import harness
from harness import ask, eventually


class Run(unittest.TestCase):
    def test_fake(self):
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        hidden = ("CODEX_", "PROXY_", "FAKE_", "OPENAI_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        run = harness.Process([harness.ROOT / "scripts/run", "--fake"], {**env, "PORT": "0", "CODEX_HOME": home.name})
        self.addCleanup(run.kill)
        url = run.line().split()[-1]
        self.assertIn("STAND-IN for development", run.stderr())
        with openai.OpenAI(base_url=url, api_key="unused") as client:
            answer = client.chat.completions.create(**ask("hello there", model="codex-5"))
            self.assertEqual(answer.choices[0].message.content, "hello there")
            chunks = client.chat.completions.create(**ask("[[say a b c]]", model="codex-5"), stream=True)
            self.assertEqual("".join(chunk.choices[0].delta.content or "" for chunk in chunks), "a b c")
        family = harness.descendants(run.pid)
        self.assertTrue(family)
        run.signal(signal.SIGTERM)
        self.assertEqual(run.wait(), 0)
        eventually("nothing of it is left", lambda: not any(seen.alive() for seen in family), 2)


if __name__ == "__main__":
    unittest.main()
