"""Whether containerd reads the registry directory: what is known, what is unknown, and what to write instead."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from node_program.containerd_configuration import (
    HEADER,
    IMAGES,
    SERVICE,
    SHORT,
    File,
    Finding,
    NodeFiles,
    Unknown,
    assess_files,
    check_registry_directory,
    parse_release,
)

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORY = "/etc/containerd/certs.d"
MAIN = "/etc/containerd/config.toml"
OLDEST, NEWEST, UNKNOWN = "1.7.30", "2.4.2", ""
LINE = f'config_path = "{DIRECTORY}"\n'
LIST = f'config_path = "{DIRECTORY}:/etc/docker/certs.d"\n'
V1 = f"[plugins.cri.registry]\n{LINE}"
V2 = f"version = 2\n{HEADER.format(SERVICE)}\n{LINE}"
V3 = f"version = 3\n{HEADER.format(IMAGES)}\n{LINE}"
MIRRORS = '[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\nendpoint = ["https://mirror.gcr.io"]\n'
TLS = '[plugins."io.containerd.grpc.v1.cri".registry.configs."docker.io".tls]\nca_file = "/ca"\n'
AUTH = '[plugins."io.containerd.grpc.v1.cri".registry.configs."docker.io".auth]\nusername = "me"\n'
# What kind and EKS have: discarded layers make containerd pull without its transfer service.
DISCARD = (
    '[plugins."io.containerd.grpc.v1.cri".containerd]\ndiscard_unpacked_layers = true\n'
    '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]\nruntime_type = "io.containerd.runc.v2"\n'
)
# Without runtimes beside it, containerd 2.x does not take it over from a file of version 2.
HALF_A_SWITCH = '[plugins."io.containerd.grpc.v1.cri".containerd]\ndiscard_unpacked_layers = true\n'
# `containerd config default` of 2.2 prints the switch, which 2.0 does not have, and the list.
PRINTED_BY_2_2 = f'version = 3\n[plugins."{IMAGES}"]\nuse_local_image_pull = false\n'
OTHER_KEY = 'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nenable_cdi = true\n'
CHANGE = re.compile(
    r": (?:take .* out of (?P<holder>\S+), )?(?:begin (?P<begin>\S+) with version = 2, )?"
    r"write (?P<line>config_path = \"\S+\") under (?P<header>\[\S+]) in (?P<file>\S+), and restart containerd$"
)


class Node:
    """A node of which only /etc/containerd is mounted."""

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        """Write the files; a name without a slash in front is below /etc/containerd."""
        self._folder = folder
        self.files = NodeFiles({"/etc/containerd": folder / "containerd"})
        (folder / "containerd").mkdir()
        for name, text in files.items():
            path = self.path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def path(self, name: str) -> Path:
        return self._folder / "containerd" / name.removeprefix("/etc/containerd/")

    def check(self, version: str, directory: str = DIRECTORY) -> Finding:
        return check_registry_directory(MAIN, directory, self.files, version)

    def follow(self, problem: str) -> None:
        """Do what a sentence says at its end, as somebody with an editor would."""
        found = CHANGE.search(problem)
        assert found, problem
        if found["holder"]:
            path = self.path(found["holder"])
            path.write_text(
                re.sub(r"^\[\S+\.(mirrors|configs)\.[^]]+].*\n(?:[^[].*\n)*", "", path.read_text(), flags=re.MULTILINE)
            )
        path = self.path(found["file"])
        text = re.sub(r"^config_path = .*\n", "", path.read_text() if path.exists() else "", flags=re.MULTILINE)
        head, header, rest = text.partition(found["header"] + "\n")
        text = (
            f"{head}{found['header']}\n{found['line']}\n{rest}"
            if header
            else f"{text}{found['header']}\n{found['line']}\n"
        )
        path.write_text(f"version = 2\n{text}" if found["begin"] else text)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        pytest.param(V2, UNKNOWN, id="version-2-in-every-release"),
        pytest.param(V3, UNKNOWN, id="version-3-in-every-release-that-knows-it"),
        pytest.param(V3.replace("3", "4", 1), NEWEST, id="version-4"),
        pytest.param(V2.replace('certs.d"', '/./certs.d/"'), NEWEST, id="another-way-to-write-it"),
        pytest.param(V2.replace('"', "'"), NEWEST, id="single-quotes"),
        pytest.param(f"version = 2\n{HEADER.format(SERVICE)}\n{LIST}", "2.0.7", id="list-before-2.1"),
        pytest.param(f"version = 2\n{HEADER.format(SERVICE)}\n{LIST}{DISCARD}", UNKNOWN, id="list-on-eks"),
        pytest.param(
            f'version = 3\n[plugins."{IMAGES}"]\ndiscard_unpacked_layers = true\n{HEADER.format(IMAGES)}\n{LIST}',
            UNKNOWN,
            id="list-on-eks-with-version-3",
        ),
        pytest.param(
            f'version = 3\n[plugins."{IMAGES}"]\nuse_local_image_pull = true\n{HEADER.format(IMAGES)}\n{LIST}',
            NEWEST,
            id="list-and-local-pulls-by-their-own-switch",
        ),
        pytest.param(
            f'version = 3\n[plugins."{IMAGES}"]\nmax_concurrent_downloads = 10\n{HEADER.format(IMAGES)}\n{LIST}',
            UNKNOWN,
            id="list-and-more-downloads-at-once",
        ),
        pytest.param(f"version = 2\n{DISCARD}", "2.3.4", id="default-on-kind"),
        pytest.param(
            f"version = 2\n{HEADER.format(SERVICE)}\n{LINE}{MIRRORS.replace('mirrors', 'headers')}",
            UNKNOWN,
            id="headers",
        ),
        pytest.param(V2 + AUTH, UNKNOWN, id="credentials-beside-it"),
        pytest.param(f'disabled_plugins = ["io.containerd.snapshotter.v1.zfs"]\n{V2}', OLDEST, id="others-disabled"),
    ],
)
def test_directory_is_read(tmp_path: Path, text: str, version: str) -> None:
    assert Node(tmp_path, {MAIN: text}).check(version) == Finding(reads=True)


@pytest.mark.parametrize(
    ("text", "version", "said"),
    [
        pytest.param("", OLDEST, "/config.toml sets no config_path: begin", id="nothing-before-2.2"),
        pytest.param("", NEWEST, "take the default /etc/containerd/certs.d:/etc/docker/certs.d, a list", id="default"),
        pytest.param("", UNKNOWN, "/config.toml sets no config_path", id="nothing-in-every-release"),
        pytest.param("version = 2\n", UNKNOWN, "/config.toml sets no config_path", id="nothing-in-version-2"),
        pytest.param("version = 3\n", "2.0", "/config.toml sets no config_path: write", id="nothing-in-version-3"),
        pytest.param(V2.replace(DIRECTORY, ""), OLDEST, "config.toml sets no config_path", id="empty"),
        pytest.param(V2.replace(DIRECTORY, "/a"), UNKNOWN, "config_path is /a, not /etc/containerd", id="another-one"),
        pytest.param(V2.replace(DIRECTORY, "/a:/b"), UNKNOWN, "is /a:/b, not /etc/containerd", id="other-ones"),
        pytest.param(f"version = 2\n{HEADER.format(SERVICE)}\n{LIST}", "2.1", "a list, which containerd", id="list"),
        pytest.param(
            f"version = 2\n{HEADER.format(SERVICE)}\n{LIST}{HALF_A_SWITCH}",
            NEWEST,
            "a list, which containerd 2.1 to 2.4 takes",
            id="list-and-half-a-switch",
        ),
        pytest.param(f"{PRINTED_BY_2_2}{HEADER.format(IMAGES)}\n{LIST}", UNKNOWN, "a list, which", id="printed-by-2.2"),
        pytest.param(f"version = 4\n{HEADER.format(IMAGES)}\n{LIST}", UNKNOWN, "a list, which", id="list-since-2.3"),
        pytest.param(f"version = 2\n{MIRRORS}", UNKNOWN, "with registry.mirrors containerd reads no", id="mirrors"),
        pytest.param(V2 + MIRRORS, UNKNOWN, "with registry.mirrors containerd reads no", id="mirrors-beside-it"),
        pytest.param(f"version = 2\n{TLS}", OLDEST, "take registry.configs.*.tls out of", id="tls-of-a-registry"),
    ],
)
def test_directory_is_not_read_and_the_advice_helps(tmp_path: Path, text: str, version: str, said: str) -> None:
    node = Node(tmp_path, {MAIN: text})
    finding = node.check(version)
    assert finding.reads is False
    assert said in finding.problem
    node.follow(finding.problem)
    assert node.check(version) == Finding(reads=True), (finding.problem, node.path(MAIN).read_text())


@pytest.mark.parametrize("name", [SHORT, SERVICE, IMAGES])
def test_disabled_cri_plugin_is_named(tmp_path: Path, name: str) -> None:
    finding = Node(tmp_path, {MAIN: f'disabled_plugins = ["{name}"]\n{V2}'}).check(UNKNOWN)
    assert finding == Finding(
        reads=False, problem=f"{MAIN} has the CRI plugin in disabled_plugins: take it out, and restart containerd"
    )


@pytest.mark.parametrize(
    ("text", "version", "said"),
    [
        pytest.param(
            V1, OLDEST, '[plugins."cri".registry] in /etc/containerd/config.toml (version not', id="version-1"
        ),
        pytest.param(
            V2.replace("version = 2\n", ""), NEWEST, "begin /etc/containerd/config.toml with", id="no-version"
        ),
        pytest.param(f"version = 2\n{V1}", OLDEST, "does not count in every release", id="name-of-1-in-version-2"),
        pytest.param(f"version = 2\n{HEADER.format(IMAGES)}\n{LINE}", "2.1.4", "does not count", id="name-of-3-in-2"),
        pytest.param(f"version = 3\n{HEADER.format(SERVICE)}\n{LINE}", NEWEST, "does not count", id="name-of-2-in-3"),
        pytest.param(f"{V3}{HEADER.format(SERVICE)}\nconfig_path = '/x'\n", UNKNOWN, "does not count", id="both-names"),
        pytest.param(V3.replace("3", "5", 1), UNKNOWN, "(version 5) does not count", id="version-5"),
        pytest.param("version = 5\n", UNKNOWN, "(version 5) does not count", id="nothing-in-version-5"),
        pytest.param(
            f"version = 2\n{HEADER.format(SERVICE)}\n{LIST}", UNKNOWN, "a list, which", id="list-in-version-2"
        ),
        pytest.param(
            f"version = 3\n{HEADER.format(IMAGES)}\n{LIST}", UNKNOWN, "a list, which", id="list-of-2.0-or-2.1"
        ),
        pytest.param(f"version = 3\n{HEADER.format(IMAGES)}\n{LIST}", "2.5.0", "a list, which", id="later-release"),
        pytest.param(
            f"version = 2\n{HEADER.format(SERVICE)}\n{LIST}", "3.0.0", "a list, which", id="far-later-release"
        ),
        pytest.param(f"version = 2\n{DISCARD}", UNKNOWN, "sets no config_path", id="kind-of-any-release"),
        pytest.param(
            f'version = 3\n[plugins."{IMAGES}"]\ndiscard_unpacked_layers = true\n{HEADER.format(IMAGES)}\n'
            'config_path = ""\n',
            "2.2.1",
            "sets no config_path",
            id="empty-in-2.2",
        ),
        pytest.param(
            f'version = 2\n{HEADER.format(SERVICE)}\nconfig_path = "/a:{DIRECTORY}"\n',
            OLDEST,
            f"what /a has for an upstream hides {DIRECTORY}",
            id="second-of-a-list",
        ),
        pytest.param("version = \n", UNKNOWN, "config.toml is not valid TOML", id="no-toml"),
        pytest.param("# \udce4", UNKNOWN, "config.toml cannot be read: 'utf-8' codec", id="no-utf-8"),
        pytest.param('version = "2"\n', UNKNOWN, "version has the wrong type", id="version-as-text"),
        pytest.param("version = true\n", UNKNOWN, "version has the wrong type", id="version-as-truth"),
        pytest.param("imports = 'a.toml'\n", UNKNOWN, "imports has the wrong type", id="imports-as-text"),
        pytest.param("plugins = []\n", UNKNOWN, "plugins has the wrong type", id="plugins-as-list"),
        pytest.param(
            f"version = 3\n{HEADER.format(IMAGES)}\nconfig_path = []\n", UNKNOWN, "config_path has", id="list-"
        ),
        pytest.param(V2 + "configs = 1\n", OLDEST, "configs has the wrong type", id="configs-as-number"),
    ],
)
def test_files_that_releases_treat_differently_are_unknown(tmp_path: Path, text: str, version: str, said: str) -> None:
    node = Node(tmp_path, {MAIN: ""})
    node.path(MAIN).write_bytes(text.encode(errors="surrogateescape"))
    finding = node.check(version)
    assert finding.reads is None
    assert finding.problem.startswith(f"whether containerd reads {DIRECTORY} is unknown: ")
    assert said in finding.problem


@pytest.mark.parametrize(
    ("files", "version", "reads"),
    [
        pytest.param({MAIN: "version = 2\nimports = ['a.toml']", "a.toml": V2}, UNKNOWN, True, id="imported"),
        pytest.param({MAIN: "version = 2\nimports = ['a.toml']", "a.toml": V2[12:]}, UNKNOWN, True, id="no-version"),
        pytest.param({MAIN: "version = 3\nimports = ['a.toml']", "a.toml": V3[12:]}, UNKNOWN, True, id="talos"),
        pytest.param({MAIN: f"imports = ['a.toml']\n{V2}", "a.toml": OTHER_KEY}, NEWEST, True, id="merged-since-2.0"),
        pytest.param({MAIN: f"imports = ['a.toml']\n{V2}", "a.toml": OTHER_KEY}, OLDEST, False, id="replaced-in-1.x"),
        pytest.param(
            {MAIN: f"imports = ['a.toml']\n{V2}", "a.toml": OTHER_KEY}, UNKNOWN, None, id="merged-or-replaced"
        ),
        pytest.param({MAIN: "version = 3\nimports = ['a.toml']", "a.toml": V2}, NEWEST, None, id="older-one"),
        pytest.param({MAIN: f"imports = ['a.toml']\n{V2}", "a.toml": "version = 3\n"}, NEWEST, None, id="newer-one"),
        pytest.param(
            {MAIN: f"imports = ['a.toml']\n{V3}", "a.toml": V3.replace(DIRECTORY, "/a")},
            UNKNOWN,
            False,
            id="later-wins",
        ),
        pytest.param(
            {
                MAIN: f"imports = ['a.toml', './b.toml']\n{V3}",
                "a.toml": f"imports = ['c/c.toml']\n{V3.replace(DIRECTORY, '/a')}",
                "b.toml": V3.replace(DIRECTORY, "/b"),
                "c/c.toml": V3,
            },
            UNKNOWN,
            True,
            id="imports-of-imports-come-last",
        ),
        pytest.param(
            {
                MAIN: f"imports = ['/etc/containerd/a.toml']\n{V3.replace(DIRECTORY, '/a')}",
                "a.toml": f"imports = ['config.toml']\n{V3}",
            },
            UNKNOWN,
            True,
            id="circle",
        ),
        pytest.param(
            {
                MAIN: "version = 3\nimports = ['/etc/containerd/conf.d/*.toml']",
                "conf.d/9.toml": V3,
                "conf.d/10.toml": V3.replace(DIRECTORY, "/a"),
                "conf.d/.8.toml": V3.replace(DIRECTORY, "/b"),
                "conf.d/99.txt": "no TOML",
            },
            UNKNOWN,
            True,
            id="pattern-in-order-of-names",
        ),
        pytest.param({MAIN: f"imports = ['/etc/containerd/none.d/*']\n{V2}"}, UNKNOWN, True, id="pattern-of-nothing"),
        pytest.param(
            {MAIN: f"imports = ['/etc/containerd/*.d/a.toml']\n{V2}"}, UNKNOWN, None, id="pattern-of-directories"
        ),
        pytest.param(
            {MAIN: f"imports = ['/etc/containerd/[^a]*.toml']\n{V2}"}, UNKNOWN, None, id="pattern-of-characters"
        ),
        pytest.param({MAIN: f"imports = ['conf.d/*.toml']\n{V2}"}, UNKNOWN, None, id="relative-pattern"),
        pytest.param({MAIN: f"imports = ['no.toml']\n{V2}"}, UNKNOWN, None, id="not-there"),
        pytest.param(
            {MAIN: f"imports = ['a.toml']\n{V2}", "a.toml": f"version = 2\n{MIRRORS}"}, NEWEST, False, id="mirrors"
        ),
        pytest.param(
            {MAIN: f"imports = ['a.toml']\n{V2}", "a.toml": "disabled_plugins = ['io.containerd.grpc.v1.cri']"},
            UNKNOWN,
            False,
            id="disabled",
        ),
    ],
)
def test_imports_are_followed(tmp_path: Path, files: dict[str, str], version: str, *, reads: bool | None) -> None:
    finding = Node(tmp_path, files).check(version)
    assert finding.reads is reads, finding.problem
    assert bool(finding.problem) is not reads


def test_advice_names_the_file_that_wins(tmp_path: Path) -> None:
    node = Node(tmp_path, {MAIN: f"imports = ['a.toml']\n{V2}", "a.toml": OTHER_KEY})
    finding = node.check(UNKNOWN)
    node.follow(finding.problem)
    assert "in /etc/containerd/a.toml, and restart" in finding.problem
    assert [node.check(version) for version in (OLDEST, NEWEST)] == [Finding(reads=True)] * 2


def test_version_is_not_added_to_a_file_whose_plugins_have_names_of_version_1(tmp_path: Path) -> None:
    """With them in a file of version 2, containerd 1.x does not start."""
    finding = Node(tmp_path, {MAIN: "[plugins.cri]\nenable_cdi = true\n"}).check(OLDEST)
    assert finding.reads is False
    assert f"make {MAIN} a file of version 2, write config_path" in finding.problem


@pytest.mark.parametrize("version", [OLDEST, NEWEST, UNKNOWN])
def test_directory_is_not_read_without_a_file_and_the_advice_helps(tmp_path: Path, version: str) -> None:
    node = Node(tmp_path, {})
    finding = node.check(version)
    assert finding.reads is False
    assert finding.problem.startswith(f"{MAIN} does not exist; if containerd has its configuration elsewhere, set")
    node.follow(finding.problem)
    assert node.check(version) == Finding(reads=True)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"imports = ['/run/k0s/containerd-cri.toml']\n{V2}", id="file"),
        pytest.param(f"imports = ['/run/k0s/*.toml']\n{V2}", id="pattern"),
        pytest.param(f"imports = ['/etc/containerd-more/a.toml']\n{V2}", id="directory-that-begins-alike"),
    ],
)
def test_files_that_the_pod_cannot_see_are_unknown(tmp_path: Path, text: str) -> None:
    finding = Node(tmp_path, {MAIN: text}).check(UNKNOWN)
    assert finding.reads is None
    assert re.search("is unknown: /(run|etc)/.* is not mounted into this pod", finding.problem)


def test_nothing_visible_is_unknown() -> None:
    finding = check_registry_directory(MAIN, DIRECTORY, NodeFiles({}), UNKNOWN)
    assert (finding.reads, bool(finding.problem)) == (None, True)


def test_file_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    node = Node(tmp_path, {})
    node.path(MAIN).mkdir()
    said = f"whether containerd reads {DIRECTORY} is unknown: {MAIN} cannot be read: Is a directory"
    assert node.check(UNKNOWN) == Finding(reads=None, problem=said)


@pytest.mark.parametrize("value", ["[" * 2000 + "]" * 2000, "9" * 5000], ids=["nested-too-deeply", "huge-number"])
def test_file_that_the_parser_gives_up_on_is_unknown(tmp_path: Path, value: str) -> None:
    finding = Node(tmp_path, {MAIN: f"x = {value}\n"}).check(UNKNOWN)
    assert finding.reads is None
    assert "is not valid TOML" in finding.problem


def test_link_inside_the_mounted_directory_is_followed(tmp_path: Path) -> None:
    node = Node(tmp_path, {"real/config.toml": V2})
    node.path(MAIN).symlink_to("link/config.toml")
    node.path("link").symlink_to("real")
    assert node.check(UNKNOWN) == Finding(reads=True)


@pytest.mark.parametrize("target", ["/nix/store/config.toml", "/etc/hosts", "../outside.toml", "config.toml", "none"])
def test_link_that_leads_elsewhere_is_unknown(tmp_path: Path, target: str) -> None:
    """In the pod it would lead to one of the pod's own files, or to nothing."""
    node = Node(tmp_path, {})
    (tmp_path / "outside.toml").write_text(V2)
    node.path(MAIN).symlink_to(target)
    assert node.check(UNKNOWN).reads is None


def test_directory_of_imports_that_is_a_link_to_elsewhere_is_unknown(tmp_path: Path) -> None:
    node = Node(tmp_path, {MAIN: f"imports = ['/etc/containerd/conf.d/*.toml']\n{V2}"})
    node.path("conf.d").symlink_to("/srv/conf.d")
    assert node.check(UNKNOWN).reads is None


def test_snaps_current_revision_is_the_same_directory(tmp_path: Path) -> None:
    node = Node(tmp_path, {MAIN: V2.replace(DIRECTORY, "/var/snap/microk8s/8511/args/certs.d")})
    assert node.check(UNKNOWN, "/var/snap/microk8s/current/args/certs.d") == Finding(reads=True)
    assert node.check(UNKNOWN, "/var/snap/other/current/args/certs.d").reads is False


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("2.2.1", (2, 2)),
        ("v1.7.0", (1, 7)),
        ("2.4", (2, 4)),
        ("", None),
        ("containerd github.com/containerd/containerd/v2 v2.4.2 ", (2, 4)),
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", (1, 6)),
        ("containerd containerd.io 1.7.24 88bf19b2105c8b17560993bee28a01ddc2f97182", (1, 7)),
        ("containerd github.com/k3s-io/containerd v2.0.5-k3s1 ", (2, 0)),
    ],
)
def test_release_is_found_in_a_version_and_in_what_containerd_prints(
    version: str, release: tuple[int, int] | None
) -> None:
    assert parse_release(version) == release


SETTINGS = [
    "registry",
    "containerd",
    "runtimes",
    "config_path",
    "mirrors",
    "configs",
    "tls",
    "max_concurrent_downloads",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["", DIRECTORY, f"{DIRECTORY}:/b"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(SETTINGS), inner, max_size=4),
    max_leaves=12,
)
FILES = st.builds(
    File,
    path=st.sampled_from([MAIN, "/etc/containerd/a.toml"]),
    version=st.integers(0, 6),
    plugins=st.dictionaries(st.sampled_from([SHORT, SERVICE, IMAGES]), VALUES, max_size=3),
    disabled=st.lists(VALUES, max_size=2),
    imports=st.just([]),
)


@example(files=[File(MAIN, 2, {SERVICE: {"config_path": ""}}, [], [])], release=None)
@example(files=[File(MAIN, 2, {SERVICE: {"containerd": {"runtimes": 1, "config_path": None}}}, [], [])], release=None)
@given(
    files=st.lists(FILES, min_size=1, max_size=3), release=st.none() | st.tuples(st.integers(1, 3), st.integers(0, 9))
)
def test_any_settings_are_judged_or_unknown(files: list[Any], release: tuple[int, int] | None) -> None:
    try:
        finding = assess_files(files, DIRECTORY, release)
    except Unknown:
        return
    assert (finding.reads is True) is (finding.problem == "")
