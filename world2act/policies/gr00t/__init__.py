"""The GR00T-N1.6 family (family "gr00t"): SigLIP2 and Qwen3 features, actions by flow matching."""

from world2act.policies.gr00t.policy import Gr00tPolicy, from_pretrained

__all__ = ["Gr00tPolicy", "from_pretrained"]
