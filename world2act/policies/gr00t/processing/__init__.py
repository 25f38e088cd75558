"""Between a robot and GR00T's network: which numbers and pictures are whose, how they are scaled, what is said."""

from world2act.policies.gr00t.processing.images import Augmentation, PixelScale, draw_augmentation
from world2act.policies.gr00t.processing.language import make_tokenizer, read_tokenizer
from world2act.policies.gr00t.processing.modality import Settings, read_settings, read_slot
from world2act.policies.gr00t.processing.processor import TOKEN_SIDE, Processor
from world2act.policies.gr00t.processing.robot import Names, Robot

__all__ = [
    "TOKEN_SIDE",
    "Augmentation",
    "Names",
    "PixelScale",
    "Processor",
    "Robot",
    "Settings",
    "draw_augmentation",
    "make_tokenizer",
    "read_settings",
    "read_slot",
    "read_tokenizer",
]
