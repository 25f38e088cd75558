"""Tiny data sets written by LeRobot itself: one with pictures and one with videos, in the version's own layout.

    python write_lerobot.py OUT      (LeRobot 0.4.4 writes v3.0, LeRobot 0.3.3 writes v2.1)

OUT/images and OUT/videos, and in OUT/pixels.npz every seventh frame as LeRobot's own reader decodes the videos.
"""

import sys
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

LENGTHS, SIZE, FPS = (26, 30, 24), 32, 20
TASKS = ("push the block", "lift the block", "push the block")
MOTION = {"delta_x": 0, "delta_y": 1, "delta_z": 2}


def features(dtype: str) -> dict:
    return {
        "observation.images.front": {
            "dtype": dtype,
            "shape": (SIZE, SIZE, 3),
            "names": ["height", "width", "channels"],
        },
        "observation.state": {"dtype": "float32", "shape": (4,), "names": ["ee_x_m", "ee_y_m", "ee_z_m", "opening"]},
        "action": {"dtype": "float32", "shape": (4,), "names": [*MOTION, "gripper"]},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
        "next.done": {"dtype": "bool", "shape": (1,), "names": None},
    }


def write(root: Path, dtype: str) -> None:
    random = np.random.default_rng(0)
    dataset = LeRobotDataset.create(
        "tests/tiny", FPS, features=features(dtype), root=root, robot_type="arm", use_videos=dtype == "video"
    )
    for task, length in zip(TASKS, LENGTHS, strict=True):
        state = random.uniform(0.3, 0.6, 4).astype(np.float32)
        for step in range(length):
            action = random.uniform(-1, 1, 4).astype(np.float32)
            picture = np.zeros((SIZE, SIZE, 3), np.uint8)
            picture[:, :, 1] = 8 * step
            row, column = (state[:2] * SIZE).astype(int) % (SIZE - 4)
            picture[row : row + 4, column : column + 4] = 255, 0, 128
            frame = {
                "observation.images.front": picture,
                "observation.state": state,
                "action": action,
                "next.reward": np.array([step / length], np.float32),
                "next.done": np.array([step == length - 1]),
            }
            try:
                dataset.add_frame(frame | {"task": task})
            except (TypeError, ValueError):  # 0.3.3
                dataset.add_frame(frame, task)
            state = state + 0.02 * np.append(action[:3], 0).astype(np.float32)
        dataset.save_episode()
    getattr(dataset, "finalize", lambda: None)()


out = Path(sys.argv[1])
out.mkdir()
for kind in ("image", "video"):
    write(out / f"{kind}s", kind)
read = LeRobotDataset("tests/tiny", root=out / "videos", video_backend="pyav")
which = np.arange(0, len(read), 7)
frames = np.stack([(read[int(i)]["observation.images.front"].numpy() * 255).round() for i in which])
np.savez_compressed(out / "pixels.npz", which=which, frames=frames.transpose(0, 2, 3, 1).astype(np.uint8))
