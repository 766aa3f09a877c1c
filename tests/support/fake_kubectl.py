"""A kubectl that builds as the real one, and plays a cluster that records what is sent to it."""

import json
import stat
import sys
from pathlib import Path

from external import SECRETS
from kubectl import find_kubectl

COMPLETE = ["namespace/dtkd", *(f"secret/{name}" for name in SECRETS), "secret/dtkd-ingress-tls"]

SCRIPT = """\
#!{python}
import json, os, pathlib, sys
arguments, folder = sys.argv[1:], pathlib.Path({folder!r})
if arguments[0] in ("kustomize", "version"):
    os.execv({real!r}, [{real!r}, *arguments])
calls = json.loads((folder / "calls.json").read_text())
sent = sys.stdin.read() if "--filename=-" in arguments else ""
calls.append([arguments, sent])
# Tests read it meanwhile.
(folder / "calls.new").write_text(json.dumps(calls))
(folder / "calls.new").replace(folder / "calls.json")
for words, text, status in json.loads((folder / "answers.json").read_text()):
    if set(words.split()) <= set(arguments):
        print(text, end="", file=sys.stderr if status else sys.stdout)
        sys.exit(status)
kinds = {{each["kind"] for each in json.loads(sent)["items"]}} if sent else {{arguments[0]}}
unwanted = json.loads((folder / "refused.json").read_text())
if "--dry-run=server" not in arguments:
    unwanted += json.loads((folder / "failing.json").read_text())
if refused := kinds & set(unwanted):
    sys.exit("Error from server (Forbidden):\\n" + refused.pop() + " is forbidden")
if arguments[0] == "get" and "--ignore-not-found" in arguments:
    if f"{{arguments[1]}}/{{arguments[2]}}" in json.loads((folder / "objects.json").read_text()):
        print(arguments[2])
elif arguments[0] == "get" and "--raw=/version" not in arguments:
    print("uid-of-" + arguments[2], end="")
"""


class FakeCluster:
    """What the cluster has, as "kind/name", and what was sent to it."""

    def __init__(self, folder, monkeypatch):
        self._folder = folder
        folder.mkdir()
        real = find_kubectl()
        program = folder / "kubectl"
        text = SCRIPT.format(python=sys.executable, folder=str(folder), real=real)
        program.write_text(text)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        self.has()
        self.refuses()
        self.answers()
        self.fails()
        (folder / "calls.json").write_text("[]")
        find_kubectl.cache_clear()
        assert Path(find_kubectl()) == program

    def has(self, *objects):
        """Set the objects that are there."""
        (self._folder / "objects.json").write_text(json.dumps(objects))

    def has_also(self, *objects):
        """Add objects to those that are there."""
        path = self._folder / "objects.json"
        path.write_text(json.dumps([*json.loads(path.read_text()), *objects]))

    def refuses(self, *kinds):
        """Set the kinds of objects that it does not take."""
        (self._folder / "refused.json").write_text(json.dumps(kinds))

    def answers(self, *answers):
        """Set (words, text, exit status) of calls whose arguments have all of these words."""
        (self._folder / "answers.json").write_text(json.dumps(answers))

    def fails(self, *kinds):
        """Set the kinds of objects, and the verbs, that it refuses unless they are only tried."""
        (self._folder / "failing.json").write_text(json.dumps(kinds))

    @property
    def arguments(self):
        """The arguments of all calls."""
        return [arguments for arguments, _ in json.loads((self._folder / "calls.json").read_text())]

    @property
    def sent(self):
        """(verb, objects) of what was created and applied, not only tried."""
        calls = json.loads((self._folder / "calls.json").read_text())
        return [
            (arguments[0], json.loads(text)["items"])
            for arguments, text in calls
            if text and "--dry-run=server" not in arguments
        ]
