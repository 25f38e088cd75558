"""params.yaml and the profiles: every key known, typed and in one place."""

from pathlib import Path

import pytest
import yaml

from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.params import compose, load_params, parse_params
from world2act.core.profiles import list_profiles, profile_in_force, render_profile, write_profile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pipeline root with the real default profile and one overlay."""
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    return tmp_path


@pytest.fixture
def own_profiles(tmp_path: Path) -> Path:
    profiles = tmp_path / "conf/profile"
    profiles.mkdir(parents=True)
    (profiles / "default.yaml").write_text((ROOT / "conf/profile/default.yaml").read_text())
    return profiles


def test_params_yaml_is_the_default_profile() -> None:
    assert (ROOT / "params.yaml").read_text() == render_profile("default", ROOT), "run `world2act profile default`"


@pytest.mark.parametrize("name", list_profiles(ROOT))
def test_every_profile_composes_and_names_itself(name: str) -> None:
    assert parse_params(compose(name, ROOT), name).profile == name


def test_written_file_reads_back_as_the_composed_values(folder: Path) -> None:
    path = write_profile("tiny", folder)
    assert load_params(path) == parse_params(compose("tiny", ROOT), "tiny")
    assert list(yaml.safe_load(path.read_text())) == list(
        yaml.safe_load((ROOT / "conf/profile/default.yaml").read_text())
    )


def test_overlay_changes_only_what_it_names(own_profiles: Path) -> None:
    (own_profiles / "warm.yaml").write_text("profile: warm\nbridge: {training: {steps: 7}}\n")
    changed, default = compose("warm", own_profiles.parents[1]), compose("default", ROOT)
    assert changed["bridge"]["training"].pop("steps") == 7
    default["bridge"]["training"].pop("steps")
    assert changed | {"profile": "default"} == default


def test_overlay_with_a_misspelt_key_names_it(own_profiles: Path) -> None:
    (own_profiles / "warm.yaml").write_text("bridge: {training: {stepz: 7}}\n")
    with pytest.raises(BadInput, match=r"warm.yaml: bridge\.training\.stepz"):
        compose("warm", own_profiles.parents[1])


def test_unknown_profile_lists_those_that_exist(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"one of .*default, "):
        write_profile("enormous", folder)


def test_edited_params_are_kept_unless_forced(folder: Path) -> None:
    path = write_profile("default", folder)
    edited = path.read_text().replace("workers: 2", "workers: 3")
    path.write_text(edited)
    assert profile_in_force(folder) == ("default", ["base.workers"])
    with pytest.raises(BadInput, match=r"base\.workers"):
        write_profile("tiny", folder)
    assert path.read_text() == edited
    write_profile("tiny", folder, force=True)
    assert profile_in_force(folder) == ("tiny", [])


def test_unedited_params_change_profile_without_force(folder: Path) -> None:
    write_profile("default", folder)
    write_profile("tiny", folder)
    assert profile_in_force(folder) == ("tiny", [])


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("bridge", "dims", 32, "unknown key"),
        ("bridge", "dim", "32", "'32'"),
        ("bridge", "dim", 32.5, "32.5"),
        ("bridge", "dim", 0, "0"),
        ("bridge", "hard_ratio", 1.5, "1.5"),
        ("demos", "tasks", [], "[]"),
        ("bridge", "chunk_length", 4, "unknown key"),
        ("base_policy", "chunk_length", 3, "3"),
    ],
)
def test_wrong_value_is_named_with_what_was_found(section: str, key: str, value: object, said: str) -> None:
    values = compose("default", ROOT)
    values[section][key] = value
    with pytest.raises(BadInput) as caught:
        parse_params(values, "params.yaml")
    assert caught.value.key == f"{section}.{key}" and said in str(caught.value.found)


def test_missing_key_is_named() -> None:
    values = compose("default", ROOT)
    del values["bridge"]["training"]["steps"]
    with pytest.raises(BadInput, match=r"bridge\.training\.steps"):
        parse_params(values, "params.yaml")


@pytest.mark.parametrize("text", ["a: [", "- a list\n", ""])
def test_file_that_is_not_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(BadInput, match=r"params\.yaml"):
        load_params(tmp_path / "params.yaml")


def test_a_profile_adds_entries_to_a_mapping_by_name(tmp_path: Path) -> None:
    """A new robot is calibrated in a profile; default.yaml does not have to know it."""
    profiles = tmp_path / "conf/profile"
    profiles.mkdir(parents=True)
    (profiles / "default.yaml").write_text((ROOT / "conf/profile/default.yaml").read_text())
    robot = {
        "contact": {"open_width_m": 0.07, "threshold_m": 0.02, "release_m": 0.01, "min_frames": 4},
        "motion": {"window_frames": 8, "turn_deg": 40.0, "stroke_m": 0.02, "response_frames": 2},
        "touch": {"threshold_n": 30.0, "release_n": 10.0, "min_frames": 4},
    }
    for section, block in robot.items():
        path = profiles / "robot.yaml"
        path.write_text(yaml.safe_dump({"profile": "robot", "skills": {section: {"widowx": block}}}))
        values = compose("robot", tmp_path)["skills"][section]
        assert values["widowx"] == block and "sawyer" in values
        path.write_text(yaml.safe_dump({"profile": "robot", "skills": {section: {"widowx": block | {"typo": 1}}}}))
        with pytest.raises(BadInput, match=rf"skills.{section}.widowx.typo\n  found:    an unknown key"):
            compose("robot", tmp_path)
    path.write_text(yaml.safe_dump({"profile": "robot", "skills": {"contacts": {"widowx": robot["contact"]}}}))
    with pytest.raises(BadInput, match=r"skills.contacts\n  found:    an unknown key"):
        compose("robot", tmp_path)
