"""Runs the tests of the official Node SDK (tests/e2e/*.test.cjs) against a proxy and a model of their own."""

import os
import subprocess
import unittest

import harness
from versions import LISTED, NATIVE_EVER, since

HERE = harness.ROOT / "tests/e2e"


class Node(unittest.TestCase):
    def test_official_sdk(self):
        model = harness.Model()
        self.addCleanup(model.kill)
        proxy = harness.Proxy(model)
        self.addCleanup(proxy.close)
        second = harness.Proxy(model, {"PROXY_SSE_MAX_CONCURRENCY": "2"})
        self.addCleanup(second.close)
        env = {**os.environ, "PROXY_URL": proxy.url, "MODEL_PORT": str(model.port), "MODEL_NAME": LISTED, "LISTED_NAME": LISTED if since(50) else "codex-5",
               "SECOND_URL": second.url, "SECOND_PID": str(second.process.pid)}
        # The others ask for native prompts, tools and schemas at once.
        files = sorted(HERE.glob("*.test.cjs")) if NATIVE_EVER else [HERE / "chat.test.cjs"]
        ran = subprocess.run(["node", "--test", "--test-reporter=spec", *files],
                             env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        self.assertEqual(ran.returncode, 0, ran.stdout)
        self.assertRegex(ran.stdout, r"pass [1-9]")


if __name__ == "__main__":
    unittest.main()
