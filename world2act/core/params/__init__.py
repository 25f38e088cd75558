"""params.yaml as typed values. Every key is required, an unknown key is an error, and nothing has a default here.

The profiles in conf/profile are the sources: `default.yaml` holds every key, each other profile what it changes.
params.yaml is the profile in force, written by `world2act profile NAME` and read by DVC and by every stage.
"""

from world2act.core.params.base import Base, Lora, Sampler, Training
from world2act.core.params.bridge import Bridge
from world2act.core.params.demos import Camera, Demos
from world2act.core.params.evaluation import Evaluate
from world2act.core.params.gates import Gates
from world2act.core.params.load import PARAMS, PROFILES, Params, compose, load_params, parse_params, read_yaml
from world2act.core.params.policies import BasePolicy
from world2act.core.params.post_training import PostTrain
from world2act.core.params.skills import Skills
from world2act.core.params.tokenizer import Latents, Tokenizer
from world2act.core.params.world_model import Judge, Rollouts, WorldModel

__all__ = [
    "PARAMS",
    "PROFILES",
    "Base",
    "BasePolicy",
    "Bridge",
    "Camera",
    "Demos",
    "Evaluate",
    "Gates",
    "Judge",
    "Latents",
    "Lora",
    "Params",
    "PostTrain",
    "Rollouts",
    "Sampler",
    "Skills",
    "Tokenizer",
    "Training",
    "WorldModel",
    "compose",
    "load_params",
    "parse_params",
    "read_yaml",
]
