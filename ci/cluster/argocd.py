"""Argo CD beside the test cluster: its controller, its repo server, its API server and Redis run on this machine.

`python -m cluster.argocd` builds it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from machine import environment, tools
from machine.cgroups import Cgroup
from machine.processes import Place, free_port, wait_for

from cluster import interface
from cluster.prepare import prepare

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cluster.interface import Cluster

NAMESPACE = "argocd"
FINALIZER = "resources-finalizer.argocd.argoproj.io"
REFRESH = "argocd.argoproj.io/refresh"
SECONDS = 180.0
DEFINITIONS = [f"crd/{name}.argoproj.io" for name in ("applications", "applicationsets", "appprojects")]


@dataclass
class ArgoCD:
    """Argo CD, whose files are in `folder`, and which reads the git repository `repository`."""

    cluster: Cluster
    folder: Path

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    @cached_property
    def api_port(self) -> int:
        return free_port()

    @property
    def place(self) -> Place:
        return Place(self.folder / "argocd", Cgroup(f"rcache-argocd-{self.folder.name}"))

    def start(self) -> None:
        """Install the definitions and settings, and start the four programs."""
        for path in tools.argocd_definitions(self.folder):
            # The definition of ApplicationSets does not fit into the annotation of a client-side apply.
            self._kubectl("apply", "--server-side", "--filename", str(path))
        wait_for("the definitions to be served", self._definitions_are_served, SECONDS)
        self._kubectl("apply", "--filename", "-", text="\n---\n".join(map(json.dumps, _settings())))
        self.place.cgroup.create()
        redis, repo_server = free_port(), free_port()
        self._start("redis", tools.redis_server(), "--port", redis, "--save", "", "--bind", "127.0.0.1")
        self._start(
            "argocd-repo-server",
            *("--redis", f"127.0.0.1:{redis}", "--address", "127.0.0.1", "--port", repo_server),
            *("--metrics-port", free_port(), "--disable-tls"),
        )
        self._start(
            "argocd-application-controller",
            *("--redis", f"127.0.0.1:{redis}", "--repo-server", f"127.0.0.1:{repo_server}", "--repo-server-plaintext"),
            *("--namespace", NAMESPACE, "--metrics-port", free_port(), "--app-resync", "10"),
            *("--self-heal-timeout-seconds", "2", "--kubeconfig", self.cluster.kubeconfig),
        )
        self._start(
            "argocd-server",
            *("--redis", f"127.0.0.1:{redis}", "--repo-server", f"127.0.0.1:{repo_server}", "--repo-server-plaintext"),
            *("--namespace", NAMESPACE, "--address", "127.0.0.1", "--port", self.api_port, "--insecure"),
            *("--metrics-port", free_port(), "--disable-auth", "--kubeconfig", self.cluster.kubeconfig),
        )

    def stop(self) -> None:
        """End the programs, and remove what they have left in the cluster."""
        self.place.cgroup.kill()
        self.place.cgroup.remove()
        self._kubectl("delete", "--ignore-not-found", "--timeout=60s", f"namespace/{NAMESPACE}", *DEFINITIONS)

    def commit(self, files: Mapping[str, str | Path]) -> None:
        """Commit files, and copies of folders, by their paths in the git repository."""
        self.repository.mkdir(exist_ok=True)
        if not (self.repository / ".git").exists():
            self._git("init", "--quiet", "--initial-branch=main")
        for name, content in files.items():
            path = self.repository / name
            if isinstance(content, str):
                path.parent.mkdir(exist_ok=True)
                path.write_text(content)
            else:
                shutil.copytree(content, path, dirs_exist_ok=True)
        self._git("add", "--all")
        self._git("commit", "--quiet", "--allow-empty", "--message=A change")

    def in_git(self, path: str = "chart", **helm: Any) -> dict[str, Any]:
        """Return the source of a chart in the git repository; `helm` has the values."""
        repository = f"file://{self.repository}"
        return {"repoURL": repository, "path": path, "targetRevision": "main", "helm": helm}

    def apply(self, name: str, source: dict[str, Any], *options: str, finalizer: bool = True) -> None:
        """Create or change an Application, which installs into the namespace `name`; `options` are those of syncs.

        Without the finalizer, what it has installed stays when it is deleted.
        """
        application = {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Application",
            "metadata": {"name": name, "namespace": NAMESPACE, "finalizers": [FINALIZER] if finalizer else []},
            "spec": {
                "project": "default",
                "source": source,
                "destination": {"server": "https://kubernetes.default.svc", "namespace": name},
                "syncPolicy": {
                    "automated": {"prune": True, "selfHeal": True},
                    "syncOptions": ["CreateNamespace=true", *options],
                },
            },
        }
        self._kubectl("apply", "--filename", "-", text=json.dumps(application))

    def trust_without_tls(self, url: str) -> None:
        """Have an OCI registry asked without TLS; `url` is that of the chart in it."""
        data = {"type": "oci", "url": url, "insecureOCIForceHttp": "true"}
        labels = {"argocd.argoproj.io/secret-type": "repository"}
        metadata = {"name": "registry-without-tls", "namespace": NAMESPACE, "labels": labels}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}
        self._kubectl("apply", "--filename", "-", text=json.dumps(secret))

    def diff(self, name: str) -> str:
        """Return what `argocd app diff` prints."""
        return self._argocd("diff", name)

    def end_sync(self, name: str) -> None:
        """End a sync that failed and would be tried again."""
        self._argocd("terminate-op", name)

    def status(self, name: str) -> Any:
        """Return the status of an Application."""
        found = interface.get(self.cluster.kubeconfig, "--namespace", NAMESPACE, "applications.argoproj.io", name)
        return found.get("status", {})

    def refresh(self, name: str) -> None:
        """Have an Application compared anew with git and the cluster, and wait until that is done."""
        annotate = ["--namespace", NAMESPACE, "annotate", "applications.argoproj.io", name]
        self._kubectl(*annotate, f"{REFRESH}=hard", "--overwrite")

        def is_done() -> bool:
            found = interface.get(self.cluster.kubeconfig, "--namespace", NAMESPACE, "applications.argoproj.io", name)
            return REFRESH not in found["metadata"].get("annotations", {})

        wait_for("the refresh to be done", is_done, SECONDS)

    def is_synced(self, name: str) -> bool:
        """Return whether an Application is what git says, and healthy."""
        status = self.status(name)
        return (status.get("sync", {}).get("status"), status.get("health", {}).get("status")) == ("Synced", "Healthy")

    def wait_until_synced(self, name: str) -> None:
        """Wait until an Application is what git says, and healthy.

        Raises:
            TimeoutError: It is not; the message says what Argo CD reports.
        """
        try:
            wait_for(f"the application {name}", lambda: self.is_synced(name), SECONDS)
        except TimeoutError as error:
            error.add_note(json.dumps(self.status(name), indent=2)[:6000])
            raise

    def delete(self, name: str) -> None:
        """Delete an Application; with the finalizer, with everything that it has installed."""
        delete = ["--namespace", NAMESPACE, "delete", "applications.argoproj.io", name, "--ignore-not-found"]
        self._kubectl(*delete, "--timeout=180s")

    def _argocd(self, command: str, name: str) -> str:
        """Return what `argocd app` prints."""
        server = ["--server", f"127.0.0.1:{self.api_port}", "--plaintext"]
        run = [str(tools.argocd()), "app", command, name, *server]
        done = subprocess.run(run, capture_output=True, text=True, check=False, env=self._environment("argocd"))
        if done.returncode not in ((0, 1) if command == "diff" else (0,)):  # 1 if there is a difference
            raise RuntimeError(done.stderr)
        return done.stdout

    def _definitions_are_served(self) -> bool:
        try:
            served = json.loads(self._kubectl("get", "--raw", "/apis/argoproj.io/v1alpha1"))["resources"]
        except RuntimeError:
            return False
        return {"applications", "appprojects"} <= {one["name"] for one in served}

    def _start(self, name: str, *command: object) -> None:
        program: tuple[object, ...] = command
        if name.startswith("argocd-"):
            program = (tools.argocd(), *command)
        self.place.start(name, program, self._environment(name))

    def _environment(self, name: str) -> dict[str, str]:
        """Return the environment of a part of Argo CD; the name decides which one the program is."""
        return {
            "ARGOCD_BINARY_NAME": name,
            # The cluster that Argo CD believes to run in is that of KUBECONFIG.
            "ARGOCD_FAKE_IN_CLUSTER": "true",
            "ARGOCD_GPG_ENABLED": "false",
            "HOME": str(self._temporary()),
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "TMPDIR": str(self._temporary()),
            "PATH": f"{self._helm()}:{environment.search_path()}",
        }

    def _temporary(self) -> Path:
        folder = self.folder / "tmp"
        folder.mkdir(exist_ok=True)
        return folder

    def _helm(self) -> Path:
        """Return a folder with Helm 3, which Argo CD runs."""
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        if not (folder / "helm").exists():
            (folder / "helm").symlink_to(tools.helm_3())
        return folder

    def _git(self, *arguments: str) -> None:
        author = {
            f"GIT_{role}_{what}": "test@example.com" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        subprocess.run(["git", *arguments], cwd=self.repository, env=tools.program_environment(**author), check=True)

    def _kubectl(self, *arguments: str, text: str | None = None) -> str:
        return interface.kubectl(self.cluster.kubeconfig, *arguments, text=text)


def _settings() -> list[dict[str, Any]]:
    """Return the objects without which Argo CD does not start."""

    def metadata(name: str) -> dict[str, Any]:
        return {"name": name, "namespace": NAMESPACE, "labels": {"app.kubernetes.io/part-of": "argocd"}}

    everything = [{"group": "*", "kind": "*"}]
    anywhere = [{"namespace": "*", "server": "*"}]
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("argocd-cm"), "data": {}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("argocd-rbac-cm"), "data": {}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("argocd-cmd-params-cm"), "data": {}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata("argocd-secret"),
            "stringData": {"server.secretkey": "a key of a test", "admin.password": "none"},
        },
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "AppProject",
            "metadata": metadata("default"),
            "spec": {"sourceRepos": ["*"], "destinations": anywhere, "clusterResourceWhitelist": everything},
        },
    ]


if __name__ == "__main__":
    sys.exit(prepare(tools.argocd, tools.helm_3, tools.redis_server))
