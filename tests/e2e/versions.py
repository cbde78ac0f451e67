"""What the tests expect of each version of codex, written down apart from the program's own table, which is so checked."""

import functools
import json
import os
import sys

import openai

VERSION = os.environ.get("E2E_CODEX_VERSION", "0.169.0")
NUMBER = tuple(int(part) for part in VERSION.split("."))
NEWEST = VERSION == "0.169.0"


def since(minor):
    """Whether this is codex 0.MINOR or a later one."""
    return NUMBER >= (0, minor, 0)


def by_version(**values):
    """Of values that hold from a version on (`v104` for 0.104), the one for this version."""
    return next((value for name, value in sorted(values.items(), key=lambda pair: -int(pair[0][1:])) if since(int(name[1:]))), None)


PROTOCOL = "v2" if since(66) else "v1"
# What codex makes of the detail of an image that goes in without.
DETAIL = by_version(v44=None, v131="high")
# The conversation reaches the model item by item; before 0.142 only one that ends with the user does.
NATIVE, NATIVE_EVER = since(121), since(142)
# A model that this codex lists (0.44 lists none) and gives tools of its own when nobody prevents it.
LISTED = by_version(v44="gpt-5", v58="gpt-5.1", v77="gpt-5.2", v121="gpt-5.4", v125="gpt-5.5", v146="gpt-5.6-sol", v169="gpt-6-sol")
# What is left of codex's own tools for that model.
MCP = ["list_mcp_resources", "list_mcp_resource_templates", "read_mcp_resource", "update_plan", "apply_patch"]
OWN_TOOLS = by_version(
    v44=["shell"], v50=["shell", *MCP[:-1]], v58=["shell", *MCP], v66=MCP, v80=[*MCP, "view_image"], v104=["update_plan", "apply_patch", "view_image"],
    v107=["update_plan", "request_user_input", "apply_patch", "view_image"], v125=["update_plan", "request_user_input"],
    v142=["update_plan"], v146=[],
)
# How codex's own texts begin that no setting removes.
OWN_TEXTS = by_version(v44=["<environment_context>"], v66=[], v81=["<permissions instructions>", "<environment_context>"], v121=[])
# Codex tells no usage of a response before its calls were answered.
UNCOUNTED = since(131) and not since(146)
# What not every codex has: since which version, a request that is refused without it, and how /readyz tells of its lack.
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {}, "additionalProperties": False}}}
NEEDS = {
    "tools": (92, {"tools": [{"type": "function", "function": {"name": "add"}}]}, "takes no tools"),
    "schemas": (80, {"response_format": SCHEMA}, "takes no JSON schema"),
    "seals": (92, None, "reasoning of earlier turns is lost"),
    "cuts": (104, None, "does not tell that an answer was cut"),
}
# What was shown to be missing as documented, by the test that would need it, and figures for the table of versions.
DEGRADED, MEASURED = {}, {}


def is_native(items):
    """Whether this codex gives a conversation to the model item by item."""
    return NATIVE and (NATIVE_EVER or items[-1][0] == "user")


def told(items):
    """A conversation as the model is to get it from this codex, in the words of harness.conversation(). Roles are those of
    the client; item by item, codex knows `developer` only."""
    if is_native(items):
        items = [("developer", *item[1:]) if item[0] == "system" else item for item in items]
        # Before 0.142 the last message goes in another way, in which images lose their detail; before 0.131 all lose it.
        lost = len(items) if not since(131) else 1 if not NATIVE_EVER else 0
        kept = len(items) - lost
        return items[:kept] + [tuple((part[0], DETAIL) if isinstance(part, tuple) else part for part in item) for item in items[kept:]]
    return joined(items)


def joined(items):
    """A conversation as one text."""
    lines, images = [], []
    for kind, *rest in items:
        match kind:
            case "call":
                lines.append(f"[tool_call {rest[0]}] {rest[1]} {rest[2]}")
            case "output":
                lines.append(f"[tool {rest[0]}] {rest[1]}")
            case "reasoning":
                pass
            case role:
                lines.append(f"[{role}] " + "".join(part for part in rest if isinstance(part, str)))
                # In this way images go without their detail, and come with a default from 0.131 on.
                images += [(part[0], DETAIL) for part in rest if not isinstance(part, str)]
    return [("user", "\n".join(lines), *images)]


def has(need):
    return since(NEEDS[need][0])


def lacking(test, need):
    """Checks that what this codex lacks is named by /readyz, and a clear 400 where it changes what an answer means."""
    minor, more, words = NEEDS[need]
    module = sys.modules[type(test).__module__]
    degraded = json.loads(module.proxy.get("/readyz")[1])["codex"]["degraded"]
    test.assertTrue(any(words in line for line in degraded), degraded)
    if more:
        with test.assertRaises(openai.BadRequestError) as raised:
            module.client.chat.completions.create(model=LISTED, messages=[{"role": "user", "content": "x"}], **more)
        test.assertEqual(raised.exception.code, "unsupported_parameter")
        test.assertIn(f"0.{minor}.0 or newer", str(raised.exception))


def needs(need):
    """For a test of what not every codex has: where it is missing, that is shown to be as documented."""
    def change(function):
        if has(need):
            return function

        @functools.wraps(function)
        def shown(self):
            DEGRADED[self.id()] = need
            lacking(self, need)
        return shown

    def decorate(what):
        if not isinstance(what, type):
            return change(what)
        for name, value in list(vars(what).items()):
            if name.startswith("test_"):
                setattr(what, name, change(value))
        return what
    return decorate
