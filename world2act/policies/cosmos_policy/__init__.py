"""The Cosmos Policy family (family "cosmos_policy"): a video model whose latent frames hold actions, proprioception,
images and value."""

SUMMARY = "a video model that denoises actions, future and value as latent frames (Cosmos Policy)"
