"""The GR00T-N1.6 family (family "gr00t"): SigLIP2 and Qwen3 features, actions by flow matching."""

SUMMARY = "vision-language features, actions by flow matching (GR00T-N1.6)"
