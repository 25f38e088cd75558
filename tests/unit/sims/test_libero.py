"""LIBERO behind the process boundary, on its real simulator. Skipped without `make libero` and assets.

Stand-in assets do for these tests; no success rate on them is a LIBERO score, and `describe` has to say so.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.paths import ROOT
from world2act.collection.expert import demonstrate
from world2act.collection.jobs import expert_settings
from world2act.core.errors import BadInput
from world2act.core.params import Demos, compose, parse_params
from world2act.sims import libero, serve
from world2act.sims.base import Environment
from world2act.sims.checks import check_protocol
from world2act.sims.libero.assets import check_assets, describe_assets
from world2act.sims.libero.protocols import PROTOCOLS
from world2act.sims.pool import EnvironmentPool
from world2act.sims.process import ProcessEnvironment
from world2act.sims.rig import CameraMount, Rig
from world2act.sims.scene_seeds import SETS, SceneSeed, parse_scene_seed, scene_seed
from world2act.sims.simulator import load_simulator

CAMERA = CameraMount("agentview")
SOUP = "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket"
STOVE = "libero_spatial/pick_up_the_black_bowl_on_the_stove_and_place_it_on_the_plate"


def _why_not() -> str:
    try:
        libero.SIMULATOR.describe()
    except BadInput as error:
        return f"{error.found} at {error.where}: {error.remedy}"
    return ""


needs_libero = [pytest.mark.libero, pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "it is there")]


def make(task: str, camera: CameraMount = CAMERA, image_size: int = 64) -> Environment:
    return libero.SIMULATOR.make_environment(task, Rig("libero", (camera,), image_size, settle_steps=10))


def run_inside(code: str) -> str:
    """Run code under LIBERO's own interpreter, after what finds world2act there."""
    find = f"import runpy; runpy.run_path({serve.__file__!r})['_find_package']()\n"
    variables = os.environ | libero._variables()
    command = [libero._python(), "-P", "-c", find + code]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tasks_are_liberos() -> None:
    counts = {suite: sum(name.startswith(f"{suite}/") for name in libero.TASKS) for suite in libero.SUITES}
    assert counts == {
        "libero_spatial": 10,
        "libero_object": 10,
        "libero_goal": 10,
        "libero_10": 10,
        "libero_90": 90,
    }
    task = libero.TASKS["libero_10/KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it"]
    assert task.instruction == "turn on the stove and put the moka pot on it" and not task.prehensile
    assert libero.TASKS[SOUP].prehensile


def test_every_profile_of_libero_has_prompts_for_its_tasks() -> None:
    from world2act.skills.schema import SchemaProvider

    assert SchemaProvider(ROOT / "conf/skills/libero.yaml")
    text = (ROOT / "conf/skills/libero.yaml").read_text()
    assert all(f"{task}:\n" in text for task in compose("libero", ROOT)["demos"]["tasks"])


def test_missing_environment_and_assets_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD2ACT_LIBERO_PYTHON", str(tmp_path / "python"))
    with pytest.raises(BadInput, match="make libero"):
        make(SOUP)
    with pytest.raises(BadInput, match="WORLD2ACT_LIBERO_ASSETS"):
        check_assets(tmp_path)
    with pytest.raises(BadInput, match=r"demos\.tasks"):
        make("libero_object/pick_up_the_moon")


def test_flat_textures_are_no_libero_scores(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("articulated_objects", "scenes", "stable_hope_objects", "turbosquid_objects"):
        (tmp_path / name).mkdir()
    (tmp_path / "stable_scanned_objects/plate").mkdir(parents=True)
    texture = tmp_path / "stable_scanned_objects/plate/texture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(texture)
    real = describe_assets(tmp_path)
    assert real["stand_ins"] == [] and "NOT LIBERO" not in real["note"]
    describe_assets.cache_clear()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(texture)
    flat = describe_assets(tmp_path)
    assert flat["stand_ins"] == ["plate"] and "NOT LIBERO SCORES" in flat["note"] and flat["sha256"] != real["sha256"]


def protocol_demos(**changes: object) -> Demos:
    values = compose("libero", ROOT)
    values["demos"] |= {"image_size": 224, "test_per_task": 50} | changes
    values["demos"]["cameras"][0]["protocol"] = "libero-openpi"
    return parse_params(values, "a test").demos


def test_a_protocol_is_followed_or_refused() -> None:
    check_protocol(protocol_demos(), max_steps=280)
    for changes, max_steps, key in [
        ({}, 300, "evaluate.max_steps"),
        ({"settle_steps": 5}, 280, "settle_steps"),
        ({"image_size": 64}, 280, "image_size"),
        ({"test_per_task": 10}, 280, "test_per_task"),
        ({"tasks": [SOUP, STOVE]}, 280, "suites"),
        ({"tasks": ["hammer"]}, 280, "suites"),
    ]:
        with pytest.raises(BadInput, match=key):
            check_protocol(protocol_demos(**changes), max_steps)
    assert PROTOCOLS["libero-openpi"].max_steps["libero_spatial"] == 220
    assert PROTOCOLS["libero-lerobot"].max_steps["libero_spatial"] == 280


def test_seeds_read_back() -> None:
    for scene in [SceneSeed(0, "labelled", 0), SceneSeed(3, "test", 49), SceneSeed(7, SETS[1], 999_999)]:
        assert parse_scene_seed(scene_seed(scene.base_seed, scene.set, scene.index)) == scene


class TestSimulator:
    pytestmark = needs_libero

    def test_the_pipeline_makes_the_same_episode_whatever_ran_before(self) -> None:
        demos = parse_params(compose("libero", ROOT), "a test").demos.model_copy(update={"image_size": 32})
        environment, seed = make(SOUP, image_size=32), scene_seed(0, "labelled", 0)
        assert isinstance(environment, ProcessEnvironment)
        first = environment.run(demonstrate, seed, expert_settings(demos))
        environment.reset(scene_seed(0, "labelled", 1))
        for _ in range(30):
            environment.step(np.array([0.5, 0.2, -0.9, 0, 0, 0, 1.0]))
        again = environment.run(demonstrate, seed, expert_settings(demos))
        assert first is not None and again is not None
        for name in ("proprio", "scene", "phase", "action", "executed"):
            np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        np.testing.assert_array_equal(first.images["agentview"], again.images["agentview"])
        phase = first.phase[:, 0]
        assert sorted(set(phase)) == [0, 1] and (np.diff(phase) >= 0).all()
        assert first.images["agentview"].std() > 10

    def test_test_scenes_are_the_official_initial_states(self) -> None:
        states = run_inside(
            "from pathlib import Path\n"
            "from libero.libero import get_libero_path\n"
            "from world2act.sims.libero.environment import read_initial_states\n"
            f"path = Path(get_libero_path('init_states')) / '{SOUP}.pruned_init'\n"
            "print(read_initial_states(path).shape)"
        )
        assert "(50, 110)" in states
        environment = make(SOUP)
        scenes = []
        for which in [(0, "test", 3), (5, "test", 3), (0, "test", 4), (0, "labelled", 3), (5, "labelled", 3)]:
            environment.reset(scene_seed(*which))
            scenes.append(environment.observe().scene)
        np.testing.assert_array_equal(scenes[0], scenes[1])
        assert len({scene.tobytes() for scene in scenes}) == 4
        with pytest.raises(BadInput, match="at most 50"):
            environment.reset(scene_seed(0, "test", 50))

    def test_a_protocols_observations_are_the_published_codes_to_the_byte(self, tmp_path: Path) -> None:
        """LIBERO's own OffScreenRenderEnv, driven as openpi drives it, against ours before the resize."""
        run_inside(
            "import numpy as np\n"
            "from pathlib import Path\n"
            "from libero.libero import get_libero_path\n"
            "from libero.libero.envs import OffScreenRenderEnv\n"
            "from robosuite.utils.transform_utils import quat2axisangle\n"
            "from world2act.sims.libero.environment import read_initial_states\n"
            f"task = '{STOVE}'\n"
            "bddl = str(Path(get_libero_path('bddl_files')) / f'{task}.bddl')\n"
            "env = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=256, camera_widths=256)\n"
            "states = read_initial_states(Path(get_libero_path('init_states')) / f'{task}.pruned_init')\n"
            "env.seed(7); env.reset(); env.set_init_state(states[2])\n"
            "actions = [[0.0] * 6 + [-1.0]] * 10 + list(np.random.default_rng(0).uniform(-1, 1, (8, 7)))\n"
            "images, states = [], []\n"
            "for action in actions:\n"
            "    obs = env.step(action)[0]\n"
            "    images.append(obs['agentview_image'][::-1, ::-1])\n"
            "    turn = quat2axisangle(obs['robot0_eef_quat'].copy())\n"
            "    states.append(np.r_[obs['robot0_eef_pos'], turn, obs['robot0_gripper_qpos']])\n"
            f"np.savez('{tmp_path / 'seen.npz'}', images=images[9:], states=states[9:])\n"
        )
        seen = np.load(tmp_path / "seen.npz")
        environment = make(STOVE, replace(CAMERA, protocol="libero-openpi"), image_size=256)
        environment.reset(scene_seed(0, "test", 2))
        actions = np.random.default_rng(0).uniform(-1, 1, (8, 7))
        for t in range(9):
            observation = environment.observe()
            np.testing.assert_array_equal(observation.images["agentview"], seen["images"][t])
            np.testing.assert_allclose(observation.proprio, seen["states"][t], atol=1e-6)
            if t < 8:
                environment.step(actions[t])

    def test_initial_states_that_name_anything_but_arrays_are_refused(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "x.pruned_init", "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(os.getcwd))
        printed = run_inside(
            "from pathlib import Path\n"
            "from world2act.core.errors import BadInput\n"
            "from world2act.sims.libero.environment import read_initial_states\n"
            "try: read_initial_states(Path('" + str(tmp_path / "x.pruned_init") + "'))\n"
            "except BadInput as error: print(error)\n"
        )
        assert "it names posix.getcwd" in printed

    def test_the_pool_steps_it_and_videos_replay(self) -> None:
        with EnvironmentPool(Rig("libero", (CAMERA,), 32, settle_steps=10), [SOUP, SOUP], workers=1) as pool:
            first = pool.reset({0: scene_seed(0, "test", 0), 1: scene_seed(0, "test", 1)})
            chunk = np.tile(np.array([0, 0, -0.5, 0, 0, 0, -1.0]), (4, 1))
            results = pool.step({0: chunk, 1: chunk})
            film = pool.replay(0, scene_seed(0, "test", 0), results[0].actions, 32)
        np.testing.assert_array_equal(film[0], first[0].images["agentview"])
        np.testing.assert_array_equal(film[-1], results[0].observation.images["agentview"])
        assert results[0].steps == 4 and first[0].instruction == libero.TASKS[SOUP].instruction
        assert (first[0].images["agentview"] != first[1].images["agentview"]).any()

    def test_the_expert_solves_a_bowl_task_from_official_states(self) -> None:
        task = "libero_goal/put_the_bowl_on_the_stove"
        environment, solved = make(task), 0
        for index in range(3):
            environment.reset(scene_seed(0, "test", index))
            solved += any(environment.step(environment.expert_action()) for _ in range(200))
        assert solved == 3

    def test_tasks_without_an_expert_say_so(self) -> None:
        environment = make("libero_goal/turn_on_the_stove")
        environment.reset(0)
        with pytest.raises(BadInput, match="demonstrations from files"):
            environment.expert_action()

    def test_it_describes_itself(self) -> None:
        described = load_simulator("libero").describe()
        assert described["packages"]["robosuite"] == "1.4.0" and len(described["assets"]["sha256"]) == 64

    def test_both_cameras_see_what_each_sees_alone(self) -> None:
        both = (CAMERA, CameraMount("eye_in_hand"))
        pictures = {}
        for cameras in (both, both[:1], both[1:]):
            environment = libero.SIMULATOR.make_environment(SOUP, Rig("libero", cameras, 64, settle_steps=10))
            environment.reset(scene_seed(0, "test", 0))
            pictures[len(pictures)] = environment.observe().images
        assert list(pictures[0]) == ["agentview", "eye_in_hand"]
        for alone in (pictures[1], pictures[2]):
            for name, picture in alone.items():
                np.testing.assert_array_equal(picture, pictures[0][name])

    def test_unknown_camera(self) -> None:
        with pytest.raises(BadInput, match=r"demos\.cameras"):
            make(SOUP, CameraMount("corner2"))
