"""Runs the suites on one version of codex and writes what passed, by features, as JSON; prints the table of several.

Usage: matrix.py run FILE        with the environment of harness.py
       matrix.py table FILE...   exit 1 if anything failed
"""

import importlib
import json
import sys
import unittest

# Each feature and the tests that show it, without those that begin with a minus.
FEATURES = {
    "text": ("test_chat.Whole", "test_chat.Leniency", "test_text"),
    "streaming": ("test_chat.Streamed",),
    "usage": ("test_chat.Whole.test_text_usage_and_finish", "test_chat.Streamed.test_usage_only_when_asked_for"),
    "reasoning": ("test_chat.Whole.test_reasoning", "test_chat.Streamed.test_reasoning_before_text"),
    "prompts": ("test_requests.Sent.test_the_clients_messages_in_order_and_little_else",
                "test_requests.Sent.test_a_conversation_that_ends_otherwise"),
    "model, effort": ("test_requests", "-test_requests.Sent.test_the_clients_messages_in_order_and_little_else",
                      "-test_requests.Sent.test_a_conversation_that_ends_otherwise"),
    "images": ("test_structured.Images",),
    "JSON schema": ("test_structured.Schemas",),
    "tools": ("test_tools",),
    "responses": ("test_responses", "-test_responses.Create.test_cut_short"),
    "text completions": ("test_completions.Text", "-test_completions.Text.test_a_cut_answer"),
    "cut answers": ("test_errors.Upstream.test_cut_and_filtered_answers_are_answers", "test_responses.Create.test_cut_short",
                    "test_completions.Text.test_a_cut_answer"),
    "stop, max_tokens, n": ("test_completions.Cut", "test_completions.Choices"),
    "errors": ("test_errors.Upstream", "-test_errors.Upstream.test_cut_and_filtered_answers_are_answers", "test_errors.Requests", "test_errors.Names"),
    "retry": ("test_errors.InTheMiddle",),
    "interrupt": ("test_disconnects",),
    "concurrency": ("test_chat.Streamed.test_32_at_once_each_only_its_own_text",),
    "death": ("test_faults",),
    "replacement": ("test_home_changes.Credentials", "test_home_changes.Configuration.test_another_provider",
                    "test_home_changes.Configuration.test_another_model"),
    "memory": ("test_endurance",),
    "nothing of the desk": ("test_home_desk",),
    "nothing left behind": ("test_home_places.Traces",),
    "no calls home": ("test_network",),
    "Node SDK": ("test_node",),
}


class Result(unittest.TextTestResult):
    """Keeps the status of each test by its id."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.bad = set()

    def addError(self, test, error):
        super().addError(test, error)
        self.bad.add(test.id())

    def addFailure(self, test, failure):
        super().addFailure(test, failure)
        self.bad.add(test.id())

    def addSubTest(self, test, subtest, failure):
        super().addSubTest(test, subtest, failure)
        if failure:
            self.bad.add(test.id())


def each(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from each(test)
        else:
            yield test


def shows(test_id, names):
    """Whether a test counts for a feature."""
    among = [name for name in names if test_id == name.lstrip("-") or test_id.startswith(name.lstrip("-") + ".")]
    return bool(among) and not any(name.startswith("-") for name in among)


def run(file):
    import versions
    modules = sorted({name.lstrip("-").split(".")[0] for names in FEATURES.values() for name in names})
    suites = [unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(module)) for module in modules]
    tests = [test for suite in suites for test in each(suite) if any(shows(test.id(), names) for names in FEATURES.values())]
    ids = [test.id() for test in tests]
    result = unittest.TextTestRunner(resultclass=Result).run(unittest.TestSuite(tests))
    # A whole class or module that could not be set up fails whatever it would have shown.
    broken = [test_id for test_id in result.bad if test_id not in ids]
    found = {}
    for feature, names in FEATURES.items():
        mine = [test_id for test_id in ids if shows(test_id, names)]
        missing = sorted({versions.DEGRADED[test_id] for test_id in mine if test_id in versions.DEGRADED})
        failed = any(test_id in result.bad for test_id in mine) or any(name.split(".")[0] in test for name in names for test in broken)
        found[feature] = "fail" if failed or not mine else "degraded" if missing else "pass"
    with open(file, "w") as out:
        json.dump({"version": versions.VERSION, "features": found, "bytes": versions.MEASURED.get("bytes")}, out)
    return not result.wasSuccessful()


def table(files):
    columns = sorted((json.load(open(file)) for file in files), key=lambda column: [int(part) for part in column["version"].split(".")])
    print("| | " + " | ".join(column["version"] for column in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for feature in FEATURES:
        print(f"| {feature} | " + " | ".join(column["features"][feature] for column in columns) + " |")
    print("| bytes that are not the client's | " + " | ".join(str(column["bytes"]) for column in columns) + " |")
    return any("fail" in column["features"].values() for column in columns)


if __name__ == "__main__":
    sys.exit(run(sys.argv[2]) if sys.argv[1] == "run" else table(sys.argv[2:]))
