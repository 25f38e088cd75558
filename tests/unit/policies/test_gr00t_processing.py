"""Between our robot and GR00T's network, against the libraries NVIDIA uses and against independent computations."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from tests.helpers.gr00t_checkpoint import CHUNK, EMBODIMENT, INSTRUCTIONS, write_checkpoint
from tests.helpers.gr00t_images_reference import draw
from world2act.core.errors import BadInput
from world2act.core.storage import read_json, write_json
from world2act.policies.base import Policy, load_policy
from world2act.policies.gr00t.checkpoint import load_checkpoint
from world2act.policies.gr00t.policy import save_pretrained
from world2act.policies.gr00t.processing import (
    Names,
    Processor,
    Robot,
    Settings,
    draw_augmentation,
    images,
    language,
    make_tokenizer,
    numbers,
)
from world2act.sims.base import Observation

JOINTS = ("x", "y", "z", "roll", "pitch", "yaw")
ROBOT = Robot(("agentview", "wrist"), 64, (*JOINTS, "left_finger", "right_finger"), (*JOINTS, "gripper"))
NAMES = Names({"image": "agentview", "wrist_image": "wrist"}, {"gripper": ["left_finger", "right_finger"]}, None)
SETTINGS = Settings(
    shortest_image_edge=256,
    crop_fraction=0.95,
    max_state_dim=9,
    max_action_dim=8,
    max_action_horizon=6,
    color_jitter_params={"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.08},
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


def read(folder: Path, names: Names = NAMES, robot: Robot = ROBOT, **more: Any) -> Processor:
    return Processor.read(folder, EMBODIMENT, robot, names, **more)


def change(folder: Path, file: str, edit: Callable[[dict[str, Any]], None]) -> None:
    values = read_json(folder / file)
    edit(values)
    write_json(folder / file, values)


def observation(seed: int, instruction: str = INSTRUCTIONS[0]) -> Observation:
    rng = np.random.default_rng(seed)
    pictures = {name: rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for name in (*ROBOT.cameras, "unused")}
    return Observation(pictures, rng.uniform(-0.9, 0.9, 8).astype(np.float32), instruction, np.zeros(0, np.float32))


class TestNumbers:
    def test_a_box_becomes_minus_one_to_one_and_back(self) -> None:
        scaling = numbers.Scaling.of_box(np.array([-1.0, 2.0, 5.0]), np.array([3.0, 2.5, 5.0]))
        values = np.array([[-1.0, 2.0, 5.0], [3.0, 2.5, 5.0], [1.0, 2.25, 5.0]])
        normal = scaling.normalise(values)
        np.testing.assert_allclose(normal, [[-1, -1, 0], [1, 1, 0], [0, 0, 0]], atol=1e-12)
        np.testing.assert_allclose(scaling.restore(normal), values, atol=1e-12)
        np.testing.assert_allclose(scaling.restore(np.full(3, 9.0)), [3, 2.5, 5])

    def test_moments_leave_what_never_moves_alone(self) -> None:
        scaling = numbers.Scaling.of_moments(np.array([2.0, 7.0]), np.array([0.5, 0.0]))
        np.testing.assert_allclose(scaling.normalise(np.array([3.0, 7.0])), [2, 7])
        np.testing.assert_allclose(scaling.restore(np.array([2.0, 7.0])), [3, 7])

    def test_measured_numbers_are_numpys(self) -> None:
        values = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
        found = numbers.measure(values)
        for name, right in (
            ("min", values.min(0)),
            ("max", values.max(0)),
            ("mean", values.mean(0)),
            ("std", values.std(0)),
            ("q01", np.percentile(values, 1, 0)),
            ("q99", np.percentile(values, 99, 0)),
        ):
            np.testing.assert_allclose(found[name], right, atol=1e-5)

    @pytest.mark.parametrize("pose", ["XYZ_ROT6D", "XYZ_ROTVEC"])
    def test_poses_are_relative_as_homogeneous_matrices_say(self, pose: numbers.Pose) -> None:
        rng = np.random.default_rng(0)
        turns, places = Rotation.random(10, rng=rng), rng.normal(size=(10, 3))

        def written(place: np.ndarray, turn: np.ndarray) -> np.ndarray:
            tail = turn[:2].ravel() if pose == "XYZ_ROT6D" else Rotation.from_matrix(turn).as_rotvec()
            return np.concatenate([place, tail])

        rows = np.stack([written(*row) for row in zip(places, turns.as_matrix(), strict=True)])
        actions, start = rows[:8].reshape(2, 4, -1), rows[8:]
        matrices = np.tile(np.eye(4), (10, 1, 1))
        matrices[:, :3, :3], matrices[:, :3, 3] = turns.as_matrix(), places
        seen = [np.linalg.inv(matrices[8 + row // 4]) @ matrices[row] for row in range(8)]
        expected = np.stack([written(matrix[:3, 3], matrix[:3, :3]) for matrix in seen]).reshape(2, 4, -1)
        found = numbers.relative(actions, start, pose)
        np.testing.assert_allclose(found, expected, atol=1e-12)
        np.testing.assert_allclose(numbers.absolute(found, start, pose), actions, atol=1e-12)

    def test_what_a_network_says_of_a_rotation_becomes_one(self) -> None:
        rows = np.random.default_rng(0).normal(size=(1, 5, 9))
        start = np.array([[0.0, 0, 0, 1, 0, 0, 0, 1, 0]])
        first, second = np.split(numbers.absolute(rows, start, "XYZ_ROT6D")[0, :, 3:], 2, 1)
        np.testing.assert_allclose([(first**2).sum(1), (second**2).sum(1)], 1, atol=1e-12)
        np.testing.assert_allclose((first * second).sum(1), 0, atol=1e-12)
        np.testing.assert_allclose(first, rows[0, :, 3:6] / np.linalg.norm(rows[0, :, 3:6], axis=1, keepdims=True))


class TestLanguage:
    # what Eagle's template makes of a message: the words, then the pictures, inside the frame of a dialogue
    EAGLE = (
        "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
        "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
        "{% set n = namespace(value=0) %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        "{% set n.value = n.value + 1 %}<image-{{ n.value }}>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        "<|im_end|>\n{% endfor %}"
    )

    def test_words_are_formalized(self) -> None:
        assert language.formalize("Pick up the Milk-carton, NOW!") == "pick up the milkcarton now"

    def test_each_picture_gets_its_tokens_where_the_template_wants_it(self) -> None:
        tokenizer = make_tokenizer([*INSTRUCTIONS, "system user you are a helpful assistant"], self.EAGLE)
        ids, mask = language.encode(tokenizer, ["open the drawer", "open"], [2, 1])
        assert mask[0].all() and mask[1].tolist() == [True] * (len(ids[0]) - 2) + [False] * 2
        assert " ".join(tokenizer.decode(ids[0]).split()) == (
            "<|im_start|> system you are a helpful assistant [UNK] <|im_end|> <|im_start|> user open the drawer "
            "<image 1> <img> <IMG_CONTEXT> <IMG_CONTEXT> </img> <image 2> <img> <IMG_CONTEXT> </img> <|im_end|>"
        )

    def test_ours_shows_first_and_says_then(self) -> None:
        ids, _ = language.encode(make_tokenizer(INSTRUCTIONS), ["open the vault"], [2])
        shown = "<image 1> <img> <IMG_CONTEXT> <IMG_CONTEXT> </img> open the [UNK]"
        assert make_tokenizer(INSTRUCTIONS).decode(ids[0]) == shown

    @pytest.mark.parametrize("words", ["open <IMG_CONTEXT>", "open <image-1>", "<image-7> open"])
    def test_words_cannot_be_pictures(self, words: str) -> None:
        if words.startswith("<image-7>"):
            language.encode(make_tokenizer(INSTRUCTIONS), [words], [2])
            return
        with pytest.raises(BadInput, match="image tokens"):
            language.encode(make_tokenizer(INSTRUCTIONS), [words], [2])

    def test_padding_may_stand_on_either_side(self, checkpoint: Path) -> None:
        """NVIDIA pads on the left, for flash attention: the same chunk comes out."""
        model, processor = load_checkpoint(checkpoint).eval(), read(checkpoint)
        inputs = processor.prepare([observation(0), observation(0, INSTRUCTIONS[1])])
        pad = int((~inputs.mask[1]).sum())
        assert pad > 0
        left = replace(
            inputs,
            prompt=torch.stack([inputs.prompt[0], inputs.prompt[1].roll(pad)]),
            mask=torch.stack([inputs.mask[0], inputs.mask[1].roll(pad)]),
        )
        noise = torch.randn(2, 12, 10, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(model.sample(left, noise), model.sample(inputs, noise), atol=1e-4, rtol=1e-4)

    def test_reads_a_tokenizer_as_nvidia_keeps_it(self, tmp_path: Path) -> None:
        """vocab.json, merges.txt, added tokens in tokenizer_config.json, chat_template.json."""
        letters = sorted({*"abcdefghijklmnopqrstuvwxyz", "Ġ", "Ċ", *"0123456789<>.", "Y"})
        write_json(tmp_path / "vocab.json", {letter: i for i, letter in enumerate(letters)})
        (tmp_path / "merges.txt").write_text("#version: 0.2\n")
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"]
        added = {
            str(len(letters) + i): {
                "content": token,
                "special": True,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "single_word": False,
            }
            for i, token in enumerate(special)
        }
        config = {"tokenizer_class": "Qwen2Tokenizer", "pad_token": "<|endoftext|>", "added_tokens_decoder": added}
        write_json(tmp_path / "tokenizer_config.json", config)
        write_json(tmp_path / "chat_template.json", {"chat_template": self.EAGLE})
        tokenizer = language.read_tokenizer(tmp_path)
        ids, _ = language.encode(tokenizer, ["open it"], [3])
        assert tokenizer.decode(ids[0]).endswith(
            "user\nopen it<image 1><img><IMG_CONTEXT><IMG_CONTEXT><IMG_CONTEXT></img><|im_end|>\n"
        )
        assert (ids[0] == len(letters) + 5).sum() == 3

    @pytest.mark.parametrize("lacks", ["tokenizer.json", "chat_template", "<IMG_CONTEXT>"])
    def test_a_tokenizer_that_lacks_something_is_named(self, tmp_path: Path, lacks: str) -> None:
        tokenizer = make_tokenizer(INSTRUCTIONS)
        if lacks == "chat_template":
            tokenizer.chat_template = None
        tokenizer.save_pretrained(tmp_path)
        if lacks == "tokenizer.json":
            (tmp_path / lacks).unlink()
        if lacks == "<IMG_CONTEXT>":
            text = (tmp_path / "tokenizer.json").read_text().replace(lacks, "<picture>")
            (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(BadInput) as error:
            language.read_tokenizer(tmp_path)
        assert error.value.key == lacks


class TestProcessor:
    def test_views_of_an_observation_are_augmented_alike(self, checkpoint: Path) -> None:
        processor = read(checkpoint)
        pictures = np.repeat(draw(64, 64)[None, None], 2, 1)
        augmentation = draw_augmentation(processor.settings, torch.Generator().manual_seed(0))
        changed = processor.pixels(pictures, [augmentation])
        assert torch.equal(changed[:, 0], changed[:, 1])
        assert (changed - processor.pixels(pictures)).abs().mean() > 0.05

    def test_observations_become_what_the_network_reads(self, checkpoint: Path) -> None:
        processor = read(checkpoint)
        seen = [observation(0), observation(1, INSTRUCTIONS[1])]
        inputs = processor.prepare(seen)
        assert inputs.pixels.shape == (2, 2, 3, 56, 56) and inputs.slot == 2
        picture = images.prepare(seen[1].images["wrist"], processor.settings, 28)
        torch.testing.assert_close(inputs.pixels[1, 1], torch.from_numpy(picture / 127.5 - 1).permute(2, 0, 1).float())
        assert (inputs.prompt == processor.image_token).sum(1).tolist() == [2 * 4] * 2
        assert inputs.state.shape == (2, 1, 12) and not inputs.state[..., 8:].any()
        box = read_json(checkpoint / "statistics.json")[EMBODIMENT]["state"]["gripper"]
        low, high = (np.array(box[key]) for key in ("min", "max"))
        expected = 2 * (seen[0].proprio[6:] - low) / (high - low) - 1
        np.testing.assert_allclose(inputs.state[0, 0, 6:8], expected, atol=1e-6)

    def test_actions_come_back_and_only_what_is_real_is_learned(self, checkpoint: Path) -> None:
        processor = read(checkpoint)
        actions = np.random.default_rng(0).uniform(-0.9, 0.9, (3, CHUNK, 7))
        real = np.arange(CHUNK) < np.array([[CHUNK], [3], [1]])
        proprio = np.zeros((3, 8))
        target, mask = processor.targets(actions, real, proprio)
        assert target.shape == mask.shape == (3, 12, 10)
        assert torch.equal(mask, torch.from_numpy(np.pad(real, ((0, 0), (0, 4)))[..., None] & (np.arange(10) < 7)))
        assert not target[~mask].any()
        back = processor.actions(target.numpy(), proprio)
        np.testing.assert_allclose(back[real], actions[real], atol=1e-6)

    def test_outliers_are_clipped_where_the_checkpoint_says_so(self, checkpoint: Path) -> None:
        far = np.full((1, 8), 50.0)
        assert read(checkpoint).state(far).max() == 1
        change(checkpoint, "processor_config.json", lambda v: v["processor_kwargs"].update(clip_outliers=False))
        assert read(checkpoint).state(far).max() > 10

    def test_percentiles_moments_and_angles(self, checkpoint: Path) -> None:
        def edit(values: dict[str, Any]) -> None:
            kwargs = values["processor_kwargs"]
            kwargs.update(use_percentiles=True, apply_sincos_state_encoding=True)
            state = kwargs["modality_configs"][EMBODIMENT]["state"]
            state.update(sin_cos_embedding_keys=["roll"], mean_std_embedding_keys=["y"])

        change(checkpoint, "processor_config.json", edit)
        proprio = np.arange(8)[None] / 10
        state = read(checkpoint).state(proprio)[0, 0].numpy()
        found = read_json(checkpoint / "statistics.json")[EMBODIMENT]["state"]
        low, high = (found["x"][key][0] for key in ("q01", "q99"))
        mean, std = (found["y"][key][0] for key in ("mean", "std"))
        expected = [2 * (0 - low) / (high - low) - 1, (0.1 - mean) / std]
        np.testing.assert_allclose(state[:2], expected, atol=1e-6)
        np.testing.assert_allclose(state[3:5], [np.sin(0.3), np.cos(0.3)], atol=1e-6)
        assert state[9:].any() == 0 != state[8]

    def test_relative_actions_start_from_the_state(self, checkpoint: Path) -> None:
        _make_relative(checkpoint)
        processor = read(checkpoint)
        rng = np.random.default_rng(0)
        proprio = rng.uniform(-0.5, 0.5, (2, 8))
        actions = rng.uniform(-0.3, 0.3, (2, CHUNK, 7))
        actions[..., 0] += proprio[:, None, 1]  # the part x starts from the state y
        target, mask = processor.targets(actions, np.ones((2, CHUNK), bool), proprio)
        step = np.arange(1, CHUNK + 1)
        np.testing.assert_allclose(target[:, :CHUNK, 0], (actions[..., 0] - proprio[:, None, 1]) / step, atol=1e-6)
        np.testing.assert_allclose(processor.actions(target.numpy(), proprio), actions, atol=1e-6)
        assert mask[:, :CHUNK, :7].all()

    def test_relative_actions_are_absolute_where_the_switch_is_off(self, checkpoint: Path) -> None:
        before = read(checkpoint).actions(np.full((1, 12, 10), 0.3), np.ones((1, 8)))
        _make_relative(checkpoint)
        change(checkpoint, "processor_config.json", lambda v: v["processor_kwargs"].update(use_relative_action=False))
        np.testing.assert_array_equal(read(checkpoint).actions(np.full((1, 12, 10), 0.3), np.ones((1, 8))), before)

    def test_a_part_that_nobody_has_is_not_learned(self, checkpoint: Path) -> None:
        robot = replace(ROBOT, actions=ROBOT.actions[:-1])
        processor = read(checkpoint, replace(NAMES, action={"gripper": []}), robot)
        actions = np.random.default_rng(0).uniform(-0.9, 0.9, (1, CHUNK, 6))
        target, mask = processor.targets(actions, np.ones((1, CHUNK), bool), np.zeros((1, 8)))
        assert mask[0, 0].tolist() == [True] * 6 + [False] * 4
        np.testing.assert_allclose(processor.actions(target.numpy(), np.zeros((1, 8))), actions, atol=1e-6)

    def test_fewer_actions_than_the_checkpoint_gives(self, checkpoint: Path) -> None:
        chunk = np.random.default_rng(0).uniform(-1, 1, (1, 12, 10))
        whole, part = (read(checkpoint, chunk_length=length).actions(chunk, np.zeros((1, 8))) for length in (None, 3))
        np.testing.assert_array_equal(part, whole[:, :3])
        with pytest.raises(BadInput, match="chunk_length"):
            read(checkpoint, chunk_length=CHUNK + 1)

    def test_a_new_embodiment_is_measured_on_its_frames(self) -> None:
        rng = np.random.default_rng(0)
        actions, proprio = rng.uniform(-1, 1, (200, 7)), rng.normal(size=(200, 8))
        names = Names({"front": "wrist"}, {"arm": ROBOT.proprio[:6], "hand": ["right_finger"]}, None)
        processor = Processor.of_dataset(
            SETTINGS,
            ROBOT,
            names,
            make_tokenizer(INSTRUCTIONS),
            actions=actions,
            proprio=proprio,
            chunk_length=5,
            embodiment="ours",
            slot=10,
        )
        assert processor.cameras == ["wrist"] and processor.prepare([observation(0)]).pixels.shape[1] == 1
        state = processor.state(proprio)[:, 0].numpy()
        np.testing.assert_allclose([state.min(0)[:7], state.max(0)[:7]], [[-1] * 7, [1] * 7], atol=1e-6)
        np.testing.assert_allclose(
            state[:, 6], 2 * (proprio[:, 7] - proprio[:, 7].min()) / np.ptp(proprio[:, 7]) - 1, atol=1e-6
        )
        assert not state[:, 7:].any()

    def test_comes_back_from_a_folder(self, checkpoint: Path, tmp_path: Path) -> None:
        _make_relative(checkpoint)
        processor = read(checkpoint, chunk_length=5)
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        processor.save(tmp_path / "one")
        opened = Processor.open(tmp_path / "one")
        opened.save(tmp_path / "two")
        files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
        assert len(files) >= 6
        for file in files:
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
        one, two = (p.prepare([observation(3)]) for p in (processor, opened))
        assert all(torch.equal(getattr(one, key), getattr(two, key)) for key in ("pixels", "prompt", "mask", "state"))
        assert list(read_json(tmp_path / "one/statistics.json")) == [EMBODIMENT]


def _make_relative(folder: Path) -> None:
    """The part x becomes relative to the state y, with a box for each step: plus and minus its number."""

    def edit(values: dict[str, Any]) -> None:
        values["processor_kwargs"].update(use_relative_action=True, clip_outliers=False)
        configs = values["processor_kwargs"]["modality_configs"][EMBODIMENT]["action"]["action_configs"]
        configs[0] = {"rep": "RELATIVE", "type": "NON_EEF", "format": "DEFAULT", "state_key": "y"}

    change(folder, "processor_config.json", edit)
    box = {"min": [[-step] for step in range(1, CHUNK + 1)], "max": [[step] for step in range(1, CHUNK + 1)]}
    change(folder, "statistics.json", lambda values: values[EMBODIMENT].update(relative_action={"x": box}))


class TestBadInput:
    @pytest.mark.parametrize(
        ("names", "robot", "key"),
        [
            (replace(NAMES, views={"image": "agentview"}), ROBOT, "views.wrist_image"),
            (replace(NAMES, views={**NAMES.views, "left": "wrist"}), ROBOT, "views"),
            (NAMES, replace(ROBOT, cameras=("agentview",)), "views.wrist_image"),
            (replace(NAMES, state=None), ROBOT, "state.gripper"),
            (replace(NAMES, state={"gripper": ["left_finger"]}), ROBOT, "state.gripper"),
            (replace(NAMES, state={"gripper": ["left_finger", "thumb"]}), ROBOT, "state.gripper"),
            (replace(NAMES, state={**NAMES.state, "x": []}), ROBOT, "state.x"),
            (replace(NAMES, action={"yaw": ["roll"]}), ROBOT, "action"),
            (replace(NAMES, action={"yaw": []}), ROBOT, "action"),
            (replace(NAMES, action={"elbow": ["yaw"]}), ROBOT, "action"),
        ],
    )
    def test_a_declaration_that_does_not_fit(self, checkpoint: Path, names: Names, robot: Robot, key: str) -> None:
        with pytest.raises(BadInput) as error:
            read(checkpoint, names, robot)
        assert error.value.key == f"base_policy.gr00t.{key}"

    @pytest.mark.parametrize(
        ("file", "place", "value", "key"),
        [
            ("processor_config.json", "modality_configs", {"gr1": {}}, "modality_configs"),
            (
                "processor_config.json",
                f"modality_configs.{EMBODIMENT}.video.delta_indices",
                [-1, 0],
                f"modality_configs.{EMBODIMENT}",
            ),
            (
                "processor_config.json",
                f"modality_configs.{EMBODIMENT}.action.action_configs",
                [],
                f"modality_configs.{EMBODIMENT}",
            ),
            ("processor_config.json", "use_albumentations", False, ""),
            ("processor_config.json", "random_rotation_angle", 10, ""),
            ("processor_config.json", "future_switch", True, "future_switch"),
            ("processor_config.json", "max_state_dim", 7, "processor_kwargs.max_state_dim"),
            ("processor_config.json", "max_action_horizon", 7, "processor_kwargs.max_action_horizon"),
            ("processor_config.json", "shortest_image_edge", "large", "shortest_image_edge"),
            ("statistics.json", "", {"gr1": {}}, EMBODIMENT),
            ("statistics.json", f"{EMBODIMENT}.state.x", None, "state.x"),
            ("statistics.json", f"{EMBODIMENT}.state.x.min", [float("inf")], "state.x.min"),
            ("statistics.json", f"{EMBODIMENT}.state.x.min", [9.0], "state.x"),
            ("statistics.json", f"{EMBODIMENT}.action.yaw.max", [1.0, 1.0], "action.yaw"),
            ("embodiment_id.json", EMBODIMENT, "two", EMBODIMENT),
        ],
    )
    def test_files_that_do_not_fit(self, checkpoint: Path, file: str, place: str, value: Any, key: str) -> None:
        content = read_json(checkpoint / file)
        block = content["processor_kwargs"] if file == "processor_config.json" else content
        *path, last = place.split(".")
        for part in path:
            block = block[part]
        if last:
            block[last] = value
        (checkpoint / file).write_text(json.dumps(content if last else value))
        with pytest.raises(BadInput) as error:
            read(checkpoint)
        assert error.value.key == key and Path(error.value.where).name == file

    @pytest.mark.parametrize("file", ["processor_config.json", "statistics.json"])
    def test_a_missing_file(self, checkpoint: Path, file: str) -> None:
        (checkpoint / file).unlink()
        with pytest.raises(BadInput, match=file):
            read(checkpoint)

    def test_an_unknown_embodiment_lists_the_known(self, checkpoint: Path) -> None:
        with pytest.raises(BadInput, match=EMBODIMENT):
            Processor.read(checkpoint, "toaster", ROBOT, NAMES)

    def test_a_relative_part_needs_its_own_statistics_and_a_state(self, checkpoint: Path) -> None:
        _make_relative(checkpoint)
        config = checkpoint / "processor_config.json"
        text = config.read_text()
        config.write_text(text.replace('"state_key": "y"', '"state_key": "gripper"'))
        with pytest.raises(BadInput, match="a state of 1 numbers"):
            read(checkpoint)
        config.write_text(text.replace("NON_EEF", "EEF"))
        with pytest.raises(BadInput, match="for a pose"):
            read(checkpoint)
        config.write_text(text)
        change(checkpoint, "statistics.json", lambda values: values[EMBODIMENT].pop("relative_action"))
        with pytest.raises(BadInput, match=r"relative_action\.x"):
            read(checkpoint)

    def test_pictures_that_are_left_as_they_are_make_whole_tokens(self) -> None:
        settings = SETTINGS.model_copy(update={"shortest_image_edge": None, "crop_fraction": None})
        with pytest.raises(BadInput, match="multiples of 24 pixels"):
            Processor.of_dataset(
                settings,
                ROBOT,
                Names(),
                make_tokenizer([]),
                actions=np.zeros((2, 7)),
                proprio=np.zeros((2, 8)),
                chunk_length=2,
                embodiment="ours",
                slot=0,
                token_side=24,
            )


class TestPolicy:
    @pytest.fixture
    def saved(self, checkpoint: Path, tmp_path: Path) -> Path:
        """A checkpoint as a policy of ours, of the weights as they are."""
        model = load_checkpoint(checkpoint)
        (tmp_path / "policy").mkdir()
        save_pretrained(tmp_path / "policy", model.config, model.state_dict(), read(checkpoint, chunk_length=5))
        return tmp_path / "policy"

    def test_acts_in_the_robots_own_numbers(self, saved: Path) -> None:
        policy = load_policy(saved)
        assert isinstance(policy, Policy)
        assert (policy.chunk_length, policy.action_dim, policy.proprio_dim) == (5, 7, 8)
        assert policy.cameras == {"agentview": 64, "wrist": 64}
        chunks = policy.predict([observation(0), observation(1, INSTRUCTIONS[1])], [7, 8])
        assert chunks.shape == (2, 5, 7) and chunks.dtype == np.float32 and np.abs(chunks).max() <= 1
        np.testing.assert_allclose(policy.predict([observation(0)], [7])[0], chunks[0], atol=1e-5)
        assert np.abs(policy.predict([observation(0)], [8])[0] - chunks[0]).max() > 1e-3

    @pytest.mark.parametrize(
        ("fault", "key"),
        [("camera", "images.wrist"), ("size", "images.agentview"), ("dtype", "images.agentview"), ("nan", "proprio")],
    )
    def test_an_observation_that_does_not_fit(self, saved: Path, fault: str, key: str) -> None:
        bad = observation(0)
        match fault:
            case "camera":
                del bad.images["wrist"]
            case "size":
                bad.images["agentview"] = bad.images["agentview"][:32]
            case "dtype":
                bad.images["agentview"] = bad.images["agentview"].astype(np.float32)
            case "nan":
                bad.proprio[3] = np.nan
        with pytest.raises(BadInput) as error:
            load_policy(saved).predict([bad], [0])
        assert error.value.key == key

    def test_a_tokenizer_of_another_policy(self, saved: Path) -> None:
        make_tokenizer(["many other words " + " ".join(map(str, range(60)))]).save_pretrained(saved / "tokenizer")
        with pytest.raises(BadInput, match="the tokenizer's tokens"):
            load_policy(saved)

    @pytest.mark.parametrize(
        ("file", "old", "new", "key"),
        [
            ("embodiment_id.json", ": 2", ": 16", "the embodiment's slot"),
            ("processor_config.json", '"max_state_dim": 12', '"max_state_dim": 13', "processor_kwargs.max_state_dim"),
            ("processor_config.json", '"token_side": 28', '"token_side": 14', "world2act.token_side"),
            ("config.json", '"chunk_length": 5', '"chunk_length": 6', "chunk_length, action_dim"),
            ("processor_config.json", '"token_side"', '"tokenside"', "world2act"),
            ("processor_config.json", '"image_size"', '"imagesize"', "world2act"),
        ],
    )
    def test_parts_of_another_policy(self, saved: Path, file: str, old: str, new: str, key: str) -> None:
        text = (saved / file).read_text()
        assert old in text
        (saved / file).write_text(text.replace(old, new))
        with pytest.raises(BadInput) as error:
            load_policy(saved)
        assert error.value.key == key
