"""π_final = π_base + f_θ: a frozen base policy and the residual that stage 2 trains (family "residual")."""

from world2act.policies.residual.policy import ResidualPolicy, from_pretrained

__all__ = ["ResidualPolicy", "from_pretrained"]
