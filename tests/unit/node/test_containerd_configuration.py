"""What containerd's configuration makes of the registry folder: each rule, for the releases in which it differs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from node_program import containerd_configuration
from node_program.containerd_configuration import Host, Reading

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORY = "/etc/containerd/certs.d"
MAIN = "/etc/containerd/config.toml"
OLDEST, NEWEST, UNKNOWN = "1.7.30", "2.4.2", None
SHORT, SERVICE, IMAGES = containerd_configuration.TABLES.values()
LINE = f'config_path = "{DIRECTORY}"\n'
BOTH = f'config_path = "{DIRECTORY}:/etc/docker/certs.d"\n'
V1, V2, V3 = f"{SHORT}\n{LINE}", f"version = 2\n{SERVICE}\n{LINE}", f"version = 3\n{IMAGES}\n{LINE}"
MIRRORS = '[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\nendpoint = ["https://mirror.gcr.io"]\n'
# As kind and EKS have it: layers that are thrown away make containerd pull without its transfer service.
LOCALLY = (
    '[plugins."io.containerd.grpc.v1.cri".containerd]\ndiscard_unpacked_layers = true\n'
    '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]\nruntime_type = "io.containerd.runc.v2"\n'
)
OTHER_KEY = 'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nenable_cdi = true\n'
ADVICE = re.compile(
    r": (?P<remove>take .* out of (?P<holder>\S+), )?write (?:version = (?P<version>\d) in its first line and )?"
    r"(?P<line>config_path = \"\S+\") under (?P<table>\[\S+]) in (?P<file>\S+), and restart containerd$"
)


class Node:
    """A node of which only /etc/containerd is mounted."""

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        """Write the files; a name without a slash in front is below /etc/containerd."""
        self._folder = folder
        self.host = Host({"/etc/containerd": folder / "containerd"})
        (folder / "containerd").mkdir()
        for name, text in files.items():
            path = self.path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def path(self, name: str) -> Path:
        return self._folder / "containerd" / name.removeprefix("/etc/containerd/")

    def look(self, version: str | None, directory: str = DIRECTORY) -> Reading:
        return containerd_configuration.look(MAIN, directory, self.host, version)

    def follow(self, problem: str) -> None:
        """Do what a sentence says at its end, as somebody with an editor would."""
        found = ADVICE.search(problem)
        assert found, problem
        if found["remove"]:
            path = self.path(found["holder"])
            path.write_text(
                re.sub(r"^\[\S+\.(mirrors|configs)\.[^]]+].*\n(?:[^[].*\n)*", "", path.read_text(), flags=re.MULTILINE)
            )
        path = self.path(found["file"])
        text = re.sub(r"^config_path = .*\n", "", path.read_text() if path.exists() else "", flags=re.MULTILINE)
        head, table, rest = text.partition(found["table"] + "\n")
        text = (
            f"{head}{found['table']}\n{found['line']}\n{rest}"
            if table
            else f"{text}{found['table']}\n{found['line']}\n"
        )
        path.write_text(f"version = {found['version']}\n{text}" if found["version"] else text)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        pytest.param(V1, OLDEST, id="version-1-before-2.0"),
        pytest.param(f"version = 1\n{V1}", OLDEST, id="version-1-said"),
        pytest.param(V1, NEWEST, id="version-1-since-2.3"),
        pytest.param(V2, UNKNOWN, id="version-2-in-every-release"),
        pytest.param(V3, UNKNOWN, id="version-3-in-every-release-that-knows-it"),
        pytest.param(V3.replace("3", "4", 1), NEWEST, id="version-4"),
        pytest.param(V2.replace("version = 2", ""), NEWEST, id="no-version-but-the-name-of-version-2-since-2.3"),
        pytest.param(V3.replace("version = 3", ""), "2.0", id="no-version-but-the-name-of-version-3"),
        pytest.param(f"version = 2\n{IMAGES}\n{LINE}", "2.1.4", id="name-of-version-3-in-version-2"),
        pytest.param(f"version = 3\n{SERVICE}\n{LINE}", NEWEST, id="name-of-version-2-in-version-3-since-2.3"),
        pytest.param(f'{V3}{SERVICE}\nconfig_path = "/x"\n', "2.2", id="name-of-version-3-wins-until-2.2"),
        pytest.param(V2.replace('certs.d"', '/./certs.d/"'), NEWEST, id="another-way-to-write-it"),
        pytest.param(V2.replace('"', "'"), NEWEST, id="single-quotes"),
        pytest.param(f"version = 2\n{SERVICE}\n{BOTH}", "2.0.7", id="list-before-the-transfer-service"),
        pytest.param(f"version = 2\n{SERVICE}\n{BOTH}{LOCALLY}", UNKNOWN, id="list-and-local-pulls"),
        pytest.param(
            f'version = 3\n[plugins."io.containerd.cri.v1.images"]\nuse_local_image_pull = true\n{IMAGES}\n{BOTH}',
            NEWEST,
            id="list-and-local-pulls-by-their-own-switch",
        ),
        pytest.param(f"version = 2\n{LOCALLY}", "2.2.1", id="default-and-local-pulls"),
        pytest.param(f"version = 2\n{SERVICE}\n{LINE}{MIRRORS.replace('mirrors', 'headers')}", UNKNOWN, id="headers"),
        pytest.param(
            V2 + MIRRORS.replace('mirrors."docker.io"', 'configs."docker.io".auth').replace("endpoint", "x"),
            UNKNOWN,
            id="credentials-beside-it",
        ),
        pytest.param(f'disabled_plugins = ["io.containerd.snapshotter.v1.zfs"]\n{V1}', OLDEST, id="others-disabled"),
    ],
)
def test_folder_is_read(tmp_path: Path, text: str, version: str | None) -> None:
    assert Node(tmp_path, {MAIN: text}).look(version) == Reading(reads=True)


@pytest.mark.parametrize(
    ("text", "version", "said"),
    [
        pytest.param("", OLDEST, "/config.toml sets no config_path", id="nothing-before-2.2"),
        pytest.param("", NEWEST, "takes its default /etc/containerd/certs.d:/etc/docker/certs.d, a list", id="default"),
        pytest.param("", UNKNOWN, "/config.toml sets no config_path", id="nothing-in-every-release"),
        pytest.param("version = 2\n", UNKNOWN, "/config.toml sets no config_path", id="nothing-in-version-2"),
        pytest.param("version = 3\n", "2.0", "/config.toml sets no config_path", id="nothing-in-version-3"),
        pytest.param(V2.replace(DIRECTORY, ""), OLDEST, "config.toml sets no config_path", id="empty"),
        pytest.param(V2.replace(DIRECTORY, "/a"), UNKNOWN, "config_path is /a, and not /etc/cont", id="another-folder"),
        pytest.param(V2.replace(DIRECTORY, "/a:/b"), UNKNOWN, "is /a:/b, and not /etc/cont", id="other-folders"),
        pytest.param(f"version = 2\n{SERVICE}\n{BOTH}", "2.1", "a list, which containerd 2.1 to 2.4 takes", id="list"),
        pytest.param(V1, "2.2", f"{SHORT} in {MAIN} does not count", id="version-1-from-2.0-to-2.2"),
        pytest.param(V2.replace("version = 2\n", ""), OLDEST, "does not count", id="name-of-version-2-in-version-1"),
        pytest.param(f"version = 2\n{IMAGES}\n{LINE}", OLDEST, "does not count", id="name-of-version-3-in-1.x"),
        pytest.param(f"version = 3\n{SERVICE}\n{LINE}", "2.1", "does not count", id="name-of-version-2-in-version-3"),
        pytest.param(
            f'{V3}{SERVICE}\nconfig_path = "/x"\n',
            NEWEST,
            "config_path is /x, and not",
            id="name-of-version-2-wins-since-2.3",
        ),
        pytest.param(f"version = 2\n{MIRRORS}", UNKNOWN, "sets registry.mirrors and no config_path", id="mirrors"),
        pytest.param(V2 + MIRRORS, UNKNOWN, "sets registry.mirrors beside config_path, and", id="mirrors-beside-it"),
        pytest.param(
            V2 + MIRRORS.replace('mirrors."docker.io"', 'configs."docker.io".tls').replace("endpoint", "x"),
            OLDEST,
            "sets registry.configs.*.tls beside config_path",
            id="tls-beside-it-in-1.x",
        ),
    ],
)
def test_folder_is_not_read_and_what_to_write_helps(tmp_path: Path, text: str, version: str | None, said: str) -> None:
    node = Node(tmp_path, {MAIN: text})
    reading = node.look(version)
    assert reading.reads is False
    assert any(said in problem for problem in reading.problems), reading.problems
    node.follow(reading.problems[-1])
    after = node.look(version)
    assert after == Reading(reads=True), (reading.problems, node.path(MAIN).read_text())


@pytest.mark.parametrize(
    ("text", "version", "said"),
    [
        pytest.param('disabled_plugins = ["cri"]\n', UNKNOWN, "config.toml has the CRI plugin in disabled", id="cri"),
        pytest.param('version = 2\ndisabled_plugins = ["cri"]', UNKNOWN, 'calls a plugin "cri"', id="short-disabled"),
        pytest.param(f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n{V2}', UNKNOWN, "take it out", id="service"),
        pytest.param(f'disabled_plugins = ["io.containerd.cri.v1.images"]\n{V3}', UNKNOWN, "take it out", id="images"),
        pytest.param(f"version = 2\n{V1}", OLDEST, 'calls a plugin "cri", which is a name of version 1', id="short"),
        pytest.param(V3, OLDEST, "has version = 3, and containerd does not start with it", id="3-in-1.x"),
        pytest.param(V3.replace("3", "4", 1), "2.2", "has version = 4, and containerd does not", id="4-before-2.3"),
        pytest.param(V3.replace("3", "5", 1), UNKNOWN, "has version = 5, and containerd does not", id="5"),
        pytest.param("version = \n", UNKNOWN, "config.toml is no TOML, and containerd does not start", id="no-toml"),
        pytest.param("# \udce4", UNKNOWN, "config.toml is no TOML, and containerd does not start", id="no-utf-8"),
        pytest.param('version = "2"\n', UNKNOWN, "config.toml: version is no number", id="version-as-text"),
        pytest.param("version = true\n", UNKNOWN, "config.toml: version is no number", id="version-as-truth"),
        pytest.param("imports = 'a.toml'\n", UNKNOWN, "config.toml: imports is no list of texts", id="imports-as-text"),
        pytest.param("plugins = []\n", UNKNOWN, "config.toml: plugins is no table of", id="plugins-as-list"),
        pytest.param("[plugins]\ncri = 1\n", UNKNOWN, "config.toml: plugins is no table of", id="no-table"),
        pytest.param(f"version = 3\n{IMAGES}\nconfig_path = []\n", UNKNOWN, "config_path is no text", id="a-list"),
        pytest.param("[plugins.cri]\nregistry = ''\n", OLDEST, "registry is no table below", id="registry-as-text"),
        pytest.param(V2 + "configs = 1\n", OLDEST, "configs is no table below", id="configs-as-number"),
        pytest.param(
            f"imports = ['no.toml']\n{V1}", UNKNOWN, "imports /etc/containerd/no.toml, which is not", id="import"
        ),
        pytest.param(
            f"imports = ['?.toml']\n{V1}", UNKNOWN, "imports /etc/containerd/?.toml, which is not", id="no-star"
        ),
    ],
)
def test_what_containerd_does_not_start_with_is_said(tmp_path: Path, text: str, version: str | None, said: str) -> None:
    node = Node(tmp_path, {MAIN: ""})
    node.path(MAIN).write_bytes(text.encode(errors="surrogateescape"))
    reading = node.look(version)
    assert reading.reads is False
    assert any(said in problem for problem in reading.problems), reading.problems


@pytest.mark.parametrize(
    ("files", "version", "reads"),
    [
        pytest.param({MAIN: f"imports = ['a.toml']\n{V2}", "a.toml": OTHER_KEY}, NEWEST, True, id="merged-since-2.0"),
        pytest.param({MAIN: f"imports = ['a.toml']\n{V2}", "a.toml": OTHER_KEY}, OLDEST, False, id="replaced-in-1.x"),
        pytest.param({MAIN: "version = 2\nimports = ['a.toml']", "a.toml": V2}, UNKNOWN, True, id="imported"),
        pytest.param({MAIN: "version = 3\nimports = ['a.toml']", "a.toml": V2}, NEWEST, True, id="older-one-imported"),
        pytest.param({MAIN: "version = 3\nimports = ['a.toml']", "a.toml": V2}, "2.0", True, id="older-one-before-2.3"),
        pytest.param(
            {MAIN: f"imports = ['a.toml']\n{V2}", "a.toml": "version = 3\n"}, "2.2", False, id="newer-one-before-2.3"
        ),
        pytest.param({MAIN: f"imports = ['a.toml']\n{V2}", "a.toml": "version = 3\n"}, NEWEST, True, id="newer-one"),
        pytest.param({MAIN: "version = 2\nimports = ['a.toml']", "a.toml": V2[12:]}, UNKNOWN, True, id="no-version"),
        pytest.param(
            {MAIN: f"imports = ['/etc/containerd/a.toml']\n{V2}", "a.toml": V2.replace(DIRECTORY, "/a")},
            UNKNOWN,
            False,
            id="later-wins",
        ),
        pytest.param(
            {MAIN: f"imports = ['a.toml']\n{V2}", "a.toml": V2.replace(DIRECTORY, "")},
            OLDEST,
            False,
            id="empty-one-wins",
        ),
        pytest.param(
            {
                MAIN: f"imports = ['a.toml', './b.toml']\n{V2}",
                "a.toml": f"imports = ['c/c.toml']\n{V2.replace(DIRECTORY, '/a')}",
                "b.toml": V2.replace(DIRECTORY, "/b"),
                "c/c.toml": V2,
            },
            UNKNOWN,
            True,
            id="imports-of-imports-come-last",
        ),
        pytest.param(
            {
                MAIN: f"imports = ['a.toml']\n{V2.replace(DIRECTORY, '/a')}",
                "a.toml": f"imports = ['config.toml']\n{V2}",
            },
            UNKNOWN,
            True,
            id="circle",
        ),
        pytest.param(
            {
                MAIN: "version = 2\nimports = ['conf.d/*.toml']",
                "conf.d/9.toml": V2,
                "conf.d/10.toml": V2.replace(DIRECTORY, "/a"),
                "conf.d/.8.toml": V2.replace(DIRECTORY, "/b"),
                "conf.d/99.txt": "no TOML",
            },
            UNKNOWN,
            True,
            id="pattern-in-order-of-names",
        ),
        pytest.param({MAIN: f"imports = ['d*/[^a-y]*.toml']\n{V2}", "d/z.toml": "["}, UNKNOWN, False, id="not-these"),
        pytest.param({MAIN: f"imports = ['d*/[^a-z]*.toml']\n{V2}", "d/z.toml": "["}, UNKNOWN, True, id="but-these"),
        pytest.param({MAIN: f"imports = ['none.d/*']\n{V2}"}, UNKNOWN, True, id="pattern-of-nothing"),
        pytest.param(
            {MAIN: f"imports = ['a.toml']\n{V2}", "a.toml": f"version = 2\n{MIRRORS}"}, UNKNOWN, False, id="mirrors"
        ),
        pytest.param(
            {MAIN: f"imports = ['a.toml']\n{V2}", "a.toml": "disabled_plugins = ['io.containerd.grpc.v1.cri']"},
            UNKNOWN,
            False,
            id="disabled",
        ),
    ],
)
def test_imports_are_merged_as_each_release_does(
    tmp_path: Path, files: dict[str, str], version: str | None, *, reads: bool
) -> None:
    reading = Node(tmp_path, files).look(version)
    assert reading.reads is reads, reading.problems
    assert bool(reading.problems) is not reads


def test_what_to_write_is_said_for_the_file_that_wins(tmp_path: Path) -> None:
    node = Node(tmp_path, {MAIN: f"imports = ['a.toml']\n{V2}", "a.toml": OTHER_KEY})
    (problem,) = node.look(OLDEST).problems
    node.follow(problem)
    assert "in /etc/containerd/a.toml, and restart" in problem
    assert node.look(OLDEST) == Reading(reads=True)


def test_where_releases_differ_each_is_named(tmp_path: Path) -> None:
    reading = Node(tmp_path, {MAIN: f"version = 2\n{SERVICE}\n{BOTH}"}).look(UNKNOWN)
    assert reading.reads is None
    (problem,) = reading.problems
    assert problem.startswith(f"containerd 2.1, 2.2, 2.3 and 2.4: {MAIN}: config_path is ")
    assert ADVICE.search(problem)


def test_whether_a_later_release_takes_lists_is_not_known(tmp_path: Path) -> None:
    reading = Node(tmp_path, {MAIN: f"version = 2\n{SERVICE}\n{BOTH}"}).look("3.0.0")
    assert (reading.reads, len(reading.problems)) == (None, 1)


def test_second_of_a_list_is_read_but_may_be_hidden(tmp_path: Path) -> None:
    node = Node(tmp_path, {MAIN: f'version = 2\n{SERVICE}\nconfig_path = "/a:{DIRECTORY}"\n'})
    said = f"{MAIN}: config_path is /a:{DIRECTORY}: what /a has for an upstream, or in _default, hides {DIRECTORY}"
    assert node.look(OLDEST) == Reading(reads=True, problems=(said,))


@pytest.mark.parametrize("version", [OLDEST, NEWEST, UNKNOWN])
def test_without_a_file_it_is_not_read_and_one_that_is_written_helps(tmp_path: Path, version: str | None) -> None:
    node = Node(tmp_path, {})
    reading = node.look(version)
    assert reading.reads is False
    assert reading.problems[0].startswith(f"{MAIN} is not there")
    node.follow(reading.problems[-1])
    assert node.look(version) == Reading(reads=True)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"imports = ['/run/k0s/containerd-cri.toml']\n{V2}", id="file"),
        pytest.param(f"imports = ['/run/k0s/*.toml']\n{V2}", id="pattern"),
        pytest.param(f"imports = ['/etc/containerd-more/a.toml']\n{V2}", id="folder-that-begins-alike"),
    ],
)
def test_what_the_pod_cannot_see_cannot_be_known(tmp_path: Path, text: str) -> None:
    reading = Node(tmp_path, {MAIN: text}).look(UNKNOWN)
    assert reading.reads is None
    assert re.search("cannot be known: /(run|etc)/.* is not mounted into this pod", reading.problems[0])


def test_nothing_visible_cannot_be_known() -> None:
    reading = containerd_configuration.look(MAIN, DIRECTORY, Host({}))
    assert (reading.reads, len(reading.problems)) == (None, 1)


def test_file_that_cannot_be_read_cannot_be_known(tmp_path: Path) -> None:
    node = Node(tmp_path, {})
    node.path(MAIN).mkdir()
    said = f"whether containerd reads {DIRECTORY} cannot be known: {MAIN} cannot be read: Is a directory"
    assert node.look(UNKNOWN) == Reading(reads=None, problems=(said,))


def test_links_are_the_nodes_own(tmp_path: Path) -> None:
    node = Node(tmp_path, {"real/config.toml": V2.replace(DIRECTORY, "/srv/certs.d")})
    node.path(MAIN).symlink_to("/etc/containerd/link/config.toml")
    node.path("link").symlink_to("real")
    node.path("certs.d").symlink_to("/srv/certs.d")
    assert node.look(UNKNOWN) == Reading(reads=True)


@pytest.mark.parametrize("target", ["/nix/store/config.toml", "config.toml"], ids=["out-of-sight", "to-itself"])
def test_link_that_leads_nowhere_cannot_be_known(tmp_path: Path, target: str) -> None:
    node = Node(tmp_path, {})
    node.path(MAIN).symlink_to(target)
    assert node.look(UNKNOWN).reads is None


def test_snaps_current_revision_is_the_same_folder(tmp_path: Path) -> None:
    node = Node(tmp_path, {MAIN: V2.replace(DIRECTORY, "/var/snap/microk8s/8511/args/certs.d")})
    assert node.look(UNKNOWN, "/var/snap/microk8s/current/args/certs.d") == Reading(reads=True)
    assert node.look(UNKNOWN, "/var/snap/other/current/args/certs.d").reads is False


def test_default_of_2_2_is_told_even_where_the_release_is_not_known(tmp_path: Path) -> None:
    """What `containerd config default` prints is the commonest case of all; 2.0, which reads it, has ended."""
    node = Node(tmp_path, {MAIN: f"version = 3\n{IMAGES}\n{BOTH}"})
    reading = node.look(UNKNOWN)
    assert reading.reads is False
    (problem,) = reading.problems
    assert "a list, which containerd 2.1 to 2.4 takes for the name of one folder" in problem
    assert node.look("2.0.7") == Reading(reads=True)
