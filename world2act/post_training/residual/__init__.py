"""The residual method: π_final = π_base + f_θ, a frozen base policy and a residual that follows imagined video.

Source: World2Act (arXiv 2603.10422). "residual" is also the family of the policies that it saves.
"""

from world2act.post_training.description import Curve

SUMMARY = "World2Act: a residual over a frozen policy that follows imagined video"
READS = ("demos", "rollouts", "bridge", "base_policy")
HISTORY = (
    Curve("cosine", "Cosine of action and imagined video", "post-trained policy", first=True),
    Curve("cosine_base", "Cosine of action and imagined video", "base policy, same states"),
    Curve("residual", "Mean absolute residual action", "residual"),
)
