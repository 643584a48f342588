"""A small Hub on this machine: as much of huggingface.co's HTTP interface as pushing and loading models takes.

Repositories live in memory. Every commit keeps all its files, so that a test can tell what one push did.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from huggingface_hub import constants


class Hub:
    """What the server holds: `repositories[name]` is the list of commits `{"oid", "title", "files": {path: bytes}, ...}`."""

    def __init__(self):
        self.repositories: dict[str, list[dict]] = {}
        self.branches: dict[tuple[str, str], list[dict]] = {}  # all but main, by repository and name
        self.objects: dict[str, bytes] = {}  # large files by their sha256
        self.private: dict[str, str | None] = {}
        self.foreign: set[str] = set()  # repositories to which changes may only be proposed
        self.url = ""

    def commits(self, name: str, revision: str) -> list[dict]:
        """Those of a branch, the newest last, or up to one commit; none where there is no such revision."""
        if revision == "main":
            return self.repositories[name]
        if (name, revision) in self.branches:
            return self.branches[name, revision]
        branches = [self.repositories[name], *(commits for (of, _), commits in self.branches.items() if of == name)]
        return [one for commits in branches for one in commits if one["oid"] == revision][:1]

    def add_commit(self, name: str, revision: str, lines: list[dict]) -> dict:
        header, *operations = lines
        parent = self.commits(name, revision)[-1]
        files, added, deleted = dict(parent["files"]), [], []
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise ValueError(operation["key"])
            (deleted if operation["key"] == "deletedFile" else added).append(value["path"])
        oid = hashlib.sha1(f"{parent['oid']}{json.dumps(lines)}".encode()).hexdigest()
        title = header["value"]["summary"]
        commit = {"oid": oid, "title": title, "files": files, "added": added, "deleted": deleted}
        commit["description"] = header["value"]["description"]
        self.commits(name, revision).append(commit)
        return commit


def problems_of_card(content: str) -> list[str]:
    """What huggingface.co refuses in a card's metadata (https://huggingface.co/docs/hub/model-cards)."""
    match = re.match(r"---\n(.*?)\n---\n", content, flags=re.DOTALL)
    if match is None:
        return ["the card has no metadata"]
    data = yaml.safe_load(match[1])
    if not isinstance(data, dict):
        return ["the metadata is no mapping"]
    problems = []
    for key, kind in {
        "library_name": str,
        "license": str,
        "pipeline_tag": str,
        "tags": list,
        "datasets": list,
    }.items():
        if key in data and not isinstance(data[key], kind):
            problems.append(f'"{key}" must be a {kind.__name__}')
    if "base_model" in data and not re.fullmatch(r"[\w.-]+/[\w.-]+", str(data["base_model"])):
        problems.append('"base_model" must be a repository id')
    for model in data.get("model-index", []):
        if not isinstance(model.get("name"), str):
            problems.append('"model-index[0].name" is required')
        for place, result in enumerate(model.get("results", [])):
            wanted = (("task", "type"), ("dataset", "type"), ("dataset", "name"))
            missing = [f"{part}.{key}" for part, key in wanted if not isinstance(result.get(part, {}).get(key), str)]
            missing += [key for metric in result["metrics"] for key in ("type", "value") if metric.get(key) is None]
            problems += [f'"model-index[0].results[{place}].{key}" is required' for key in missing]
    return problems


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    @property
    def route(self) -> str:
        return unquote(urlsplit(self.path).path)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, status: int, content=b"", **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers["Content_Type"] = "application/json"
        self.send_response(status)
        for key, value in {"Content_Length": str(len(content)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def missing(self, what: str, **headers):
        self.reply(404, {"error": f"{what} not found"}, X_Error_Code=what, **headers)

    def do_POST(self):
        body, route = self.body(), self.route
        if route == "/api/validate-yaml":
            problems = problems_of_card(json.loads(body)["content"])
            errors = [{"message": problem} for problem in problems]
            return self.reply(400 if errors else 200, {"errors": errors, "warnings": []})
        if not self.headers.get("Authorization"):
            return self.reply(401, {"error": "log in first"})
        if route == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            url = {"url": f"{self.hub.url}/{name}", "id": name, "name": name}
            if name in self.hub.repositories:
                return self.reply(409, url)
            self.hub.private[name] = asked.get("visibility") or asked.get("private")
            self.hub.repositories[name] = [{"oid": "0" * 40, "title": "", "files": {}, "added": [], "deleted": []}]
            return self.reply(200, url)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", route):
            if match[1] in self.hub.foreign:
                return self.reply(403, {"error": "this repository is not yours"})
            if match.groups() in self.hub.branches:
                return self.reply(409, {"error": "the branch exists"})
            self.hub.branches[match.groups()] = [*self.hub.repositories[match[1]]]
            return self.reply(200, {})
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(?:preupload|commit)/(.+)", route)
        if match and not self.hub.commits(*match.groups()):
            return self.missing("RevisionNotFound")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", route):
            large = (".safetensors", ".png")
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(large) else "regular",
                    "shouldIgnore": False,
                }
                for file in files
            ]
            return self.reply(200, {"files": modes})
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", route):
            objects = []
            for asked in json.loads(body)["objects"]:
                if asked["oid"] not in self.hub.objects:
                    asked["actions"] = {"upload": {"href": f"{self.hub.url}/objects/{asked['oid']}"}}
                objects.append(asked)
            return self.reply(200, {"transfer": "basic", "objects": objects})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", route):
            (name, revision), proposed = match.groups(), "create_pr=1" in self.path
            if name in self.hub.foreign and not proposed:
                return self.reply(403, {"error": "this repository is not yours"})
            if proposed:
                self.hub.branches[name, "refs/pr/1"] = [*self.hub.commits(name, revision)]
            lines = [json.loads(line) for line in body.splitlines()]
            commit = self.hub.add_commit(name, "refs/pr/1" if proposed else revision, lines)
            answer = {"commitUrl": f"{self.hub.url}/{name}/commit/{commit['oid']}", "commitOid": commit["oid"]}
            pull_request = {"pullRequestUrl": f"{self.hub.url}/{name}/discussions/1"} if proposed else {}
            return self.reply(200, {**answer, **pull_request, "success": True})
        return self.missing("EntryNotFound")

    def do_PUT(self):
        content = self.body()
        oid = self.route.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != oid:
            return self.reply(400, {"error": "the content is not what was announced"})
        self.hub.objects[oid] = content
        return self.reply(200)

    def do_GET(self):
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+)(/.*)?)?", self.route):
            name, kind, revision, place = match.groups()
            if name not in self.hub.repositories:
                return self.missing("RepoNotFound")
            commits = self.hub.commits(name, revision or "main")
            if not commits:
                return self.missing("RevisionNotFound")
            commit = commits[-1]
            if kind == "tree":
                if place:
                    return self.missing("EntryNotFound")
                sizes = [
                    {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for path, content in commit["files"].items()
                ]
                return self.reply(200, sizes)
            siblings = [{"rfilename": path} for path in commit["files"]]
            return self.reply(
                200, {"id": name, "modelId": name, "sha": commit["oid"], "siblings": siblings, "tags": []}
            )
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.route)
        if match is None or match[1] not in self.hub.repositories:
            return self.missing("RepoNotFound")
        commits = self.hub.commits(match[1], match[2])
        if not commits:
            return self.missing("RevisionNotFound")
        commit = commits[-1]
        content = commit["files"].get(match[3])
        if content is None:
            return self.missing("EntryNotFound", X_Repo_Commit=commit["oid"])
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self.reply(200, content, X_Repo_Commit=commit["oid"], ETag=etag)

    do_HEAD = do_GET


@contextmanager
def running_hub():
    """A [`Hub`] that answers at `hub.url` while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def publishing_to(hub: Hub):
    """While the block runs, `hub` is this process's Hub. Loading from it takes a fresh process: transformers looks only once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", "hf_test")
        yield


def run_with_hub(hub: Hub, folder: Path, script: str, *arguments) -> str:
    """Runs a script in a fresh process without the package, whose Hub is `hub`, with empty caches in `folder`; returns what it printed."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "hf_test",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HOME": str(folder / "home"),
        "HF_MODULES_CACHE": str(folder / "modules"),
    }
    script = f"import sys\nsys.modules['modeling_mmgpt'] = None  # cannot be imported\n{script}"
    command = [sys.executable, "-I", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout
